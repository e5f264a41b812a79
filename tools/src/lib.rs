//! Host side of Beeline: set-up, images, test beds, reports. The programs `xtask` and
//! `beeline` are thin command lines over these modules, and the emulator tests use them too.

pub mod bed;
pub mod check;
pub mod command;
pub mod config;
pub mod image;
pub mod initramfs;
pub mod iso;
pub mod loc;
pub mod progress;
pub mod readiness;
pub mod report;
pub mod run;
pub mod setup;
pub mod symbolise;
pub mod test;
pub mod workspace;
