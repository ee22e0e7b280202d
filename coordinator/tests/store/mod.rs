//! What the tests of the stores share.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod conformance;
pub(crate) mod etcd;
pub(crate) mod etcd_cluster;
pub(crate) mod skip;
pub(crate) mod transition;
