//! The owner of physical functions, kind `pf-owner`: a VM of its own that brings up the PFs which it was given and serves
//! their virtual functions, which other VMs own, for ever. Beeline has switched the virtual functions on before.
//!
//! | file | what |
//! |---|---|
//! | `serve` | finds the PFs and goes round among them |
//! | `igb` | Intel 82576: link, pools, filters |
//! | `mailbox` | how its VFs' drivers speak to it |
//! | `request` | what they say |
//! | `nvme` | NVMe: resources of its secondary controllers, and to bring them online |
//! | `admin` | commands to an NVMe controller |
//!
//! One line for each PF: `PF igb ready vfs=N` or `PF nvme ready vfs=N` once its VFs can be used, else `PF … FAILED` and why.

#[cfg(target_os = "none")]
mod admin;
#[cfg(target_os = "none")]
mod igb;
#[cfg(target_os = "none")]
mod mailbox;
#[cfg(target_os = "none")]
mod nvme;
mod request;
#[cfg(target_os = "none")]
mod serve;
