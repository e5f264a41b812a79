//! VMX layouts: VMCS field encodings, control bits, exit reasons and event formats. Used by
//! `arch::virt::vmx` alone. Intel SDM volume 3, chapters 25 to 28 and appendices A to C.

pub mod control;
pub mod event;
pub mod exit;
pub mod feature_control;
pub mod field;

pub use control::{ControlKind, MissingControl, fit_controls};
pub use event::VectoringInfo;
pub use exit::ExitReason;
pub use feature_control::FeatureControl;
pub use field::Field;
