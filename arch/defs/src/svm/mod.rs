//! SVM layouts: the VMCB, intercept bits, exit codes and event formats. Used by `arch::virt::svm` alone. AMD APM
//! volume 2, chapter 15 and appendices B and C.

pub mod event;
pub mod exit;
pub mod intercept;
pub mod vmcb;

pub use event::EventInfo;
pub use exit::ExitCode;
pub use vmcb::{Segment, Vmcb};
