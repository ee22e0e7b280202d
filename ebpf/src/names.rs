//! `cgroup/getpeername4/6` and `cgroup/getsockname4/6`: a program sees the addresses that it would
//! see without Sealwire, on both sides.
//!
//! Minimum kernel version: 5.8.

use core::ffi::c_void;

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use ebpf_abi::Endpoint;

use crate::{
    context::{set_endpoint_v4, set_endpoint_v6},
    maps::{ORIGINALS, TRUE_PEERS},
};

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = true_peer(socket(&ctx)) {
        // SAFETY: the context of a hook for IPv4.
        unsafe { set_endpoint_v4(ctx.sock_addr, peer) };
    }
    1
}

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = true_peer(socket(&ctx)) {
        // SAFETY: the context of a hook for IPv6.
        unsafe { set_endpoint_v6(ctx.sock_addr, peer) };
    }
    1
}

#[cgroup_sock_addr(getsockname4)]
fn getsockname4(ctx: SockAddrContext) -> i32 {
    if let Some(name) = true_name(socket(&ctx)) {
        // SAFETY: the context of a hook for IPv4.
        unsafe { set_endpoint_v4(ctx.sock_addr, name) };
    }
    1
}

#[cgroup_sock_addr(getsockname6)]
fn getsockname6(ctx: SockAddrContext) -> i32 {
    if let Some(name) = true_name(socket(&ctx)) {
        // SAFETY: the context of a hook for IPv6.
        unsafe { set_endpoint_v6(ctx.sock_addr, name) };
    }
    1
}

#[inline(always)]
fn socket(ctx: &SockAddrContext) -> *mut c_void {
    // SAFETY: the context's socket, which the kernel holds for the call.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk.cast() }
}

/// Whom the program takes to be at the other end.
#[inline(always)]
fn true_peer(sk: *mut c_void) -> Option<Endpoint> {
    let original = ORIGINALS.of(sk);
    if !original.is_null() {
        // SAFETY: not null, the value of this socket.
        return Some(unsafe { (*original).destination });
    }
    let client = TRUE_PEERS.of(sk);
    if client.is_null() {
        return None;
    }
    // SAFETY: not null, the value of this socket.
    Some(unsafe { *client })
}

/// The program's own address; that of an accepted socket needs no correction.
#[inline(always)]
fn true_name(sk: *mut c_void) -> Option<Endpoint> {
    let original = ORIGINALS.of(sk);
    if original.is_null() {
        return None;
    }
    // SAFETY: not null, the value of this socket.
    let source = unsafe { (*original).source };
    if source.is_unspecified() || source.port == 0 {
        None
    } else {
        Some(source)
    }
}
