//! `cgroup/setsockopt` and `cgroup/getsockopt` on the agent's cgroup: the agent asks for what it needs
//! for each connection by socket options of its own, so that no thread that serves peers needs bpf(2).
//!
//! The hooks see every option of every socket in the cgroup and below. They answer those at
//! [`SOL_SEALWIRE`] to whoever knows the instance's token and leave everything else as it is, also
//! for the program of another instance that may be attached beside them. What nobody answers gets the
//! kernel's own error.
//!
//! To get takes no token: the kernel hands a hook nothing of what the caller has written, and what is
//! told was noted on that very socket.
//!
//! Minimum kernel version: 5.18 (`bpf_set_retval`, a return value of zero where the kernel failed).

use core::{arch::asm, mem::offset_of};

use aya_ebpf::{
    bindings::bpf_sockopt, helpers::generated::bpf_set_retval, macros::cgroup_sockopt,
    programs::SockoptContext,
};
use ebpf_abi::{
    BeatRequest, ForgetClientRequest, NameClientRequest, OriginalDestination, PermitRequest,
    RefuseRequest, SOL_SEALWIRE, SocketOption, Token,
};

use crate::{
    context::read,
    maps::{ACCEPTED, CLIENTS, HEARTBEAT, PERMITTED, REFUSED, TOKEN},
};

/// Writes one field of the context.
///
/// As one instruction: from writes at the ends of several paths LLVM makes one through a computed
/// pointer, volatile or not ("dereference of modified ctx ptr disallowed").
macro_rules! answer {
    ($call:expr, $field:ident, $value:expr) => {
        // SAFETY: the program's context, of which a program may write this field.
        unsafe {
            asm!(
                "*(u32 *)({call} + {offset}) = {value}",
                call = in(reg) $call,
                offset = const offset_of!(bpf_sockopt, $field),
                value = in(reg) i64::from($value),
                options(nostack),
            );
        }
    };
}

#[cgroup_sockopt(setsockopt)]
fn setsockopt_agent(ctx: SockoptContext) -> i32 {
    let call = ctx.sockopt;
    // SAFETY: the program's context.
    let (level, option) = unsafe { (read!((*call).level), read!((*call).optname)) };
    if level != SOL_SEALWIRE {
        leave(call, level);
        return PASS;
    }
    let Some(done) = set(call, option) else {
        return PASS;
    };
    if !done {
        // SAFETY: sets this hook's return value.
        unsafe { bpf_set_retval(-ENOSPC) };
        return FAIL;
    }
    // The kernel's own handler is passed by.
    answer!(call, optlen, DONE);
    PASS
}

#[cgroup_sockopt(getsockopt)]
fn getsockopt_agent(ctx: SockoptContext) -> i32 {
    let call = ctx.sockopt;
    // SAFETY: the program's context.
    let (level, option) = unsafe { (read!((*call).level), read!((*call).optname)) };
    if level != SOL_SEALWIRE {
        leave(call, level);
        return PASS;
    }
    if option != SocketOption::OriginalDestination as i32 {
        return PASS;
    }
    // SAFETY: the program's context; the socket is tested for null, as is its value, and `place` has
    // room for it.
    unsafe {
        let sk = read!((*call).__bindgen_anon_1.sk);
        let Some(place) = value::<OriginalDestination>(call) else {
            return PASS;
        };
        if sk.is_null() {
            return PASS;
        }
        let original = ACCEPTED.of(sk.cast());
        if original.is_null() {
            return PASS;
        }
        copy(original, place);
    }
    answer!(call, optlen, size_of::<OriginalDestination>() as i32);
    answer!(call, retval, 0_i32);
    PASS
}

/// Does what is asked for; `None` where it is not for this instance to do, false where there is no
/// room.
#[inline(always)]
fn set(call: *mut bpf_sockopt, option: i32) -> Option<bool> {
    // Numbers, as a jump table is nothing that the verifier knows.
    if option == SocketOption::Permit as i32 {
        request::<PermitRequest>(call)?;
        // SAFETY: the program's context; the socket is tested for null.
        let sk = unsafe { read!((*call).__bindgen_anon_1.sk) };
        return Some(!sk.is_null() && PERMITTED.set(sk.cast(), &1));
    }
    if option == SocketOption::NameClient as i32 {
        let asked = request::<NameClientRequest>(call)?;
        return Some(CLIENTS.insert(&asked.key, &asked.client, 0).is_ok());
    }
    if option == SocketOption::ForgetClient as i32 {
        let asked = request::<ForgetClientRequest>(call)?;
        // Usually the program's socket has taken it over, and it is gone.
        let _ = CLIENTS.remove(&asked.key);
        return Some(true);
    }
    if option == SocketOption::Refuse as i32 {
        let asked = request::<RefuseRequest>(call)?;
        return Some(REFUSED.insert(&asked.key, &asked.until, 0).is_ok());
    }
    if option == SocketOption::Beat as i32 {
        let asked = request::<BeatRequest>(call)?;
        return Some(HEARTBEAT.set(0, &asked.at, 0).is_ok());
    }
    None
}

/// The value that is set, where it begins with the instance's token, which does not stay in the
/// kernel's copy. Each of them does begin with one.
#[inline(always)]
fn request<T: Copy>(call: *mut bpf_sockopt) -> Option<T> {
    let place = value::<T>(call)?;
    let own = *TOKEN.get(0)?;
    // SAFETY: `place` has room for a T, and each begins with a token.
    unsafe {
        let token = place.cast::<Token>();
        if !own.is(*token) {
            return None;
        }
        let asked = *place;
        *token = Token([0, 0]);
        Some(asked)
    }
}

/// The kernel's copy of the value, where a T fits in.
#[inline(always)]
fn value<T>(call: *mut bpf_sockopt) -> Option<*mut T> {
    // SAFETY: the program's context.
    let (start, end) = unsafe {
        (
            read!((*call).__bindgen_anon_2.optval).cast::<u8>(),
            read!((*call).__bindgen_anon_3.optval_end).cast::<u8>(),
        )
    };
    if start.wrapping_add(size_of::<T>()) > end {
        return None;
    }
    Some(start.cast())
}

/// Leaves an option of others as it is.
///
/// The kernel goes on with the copy that the hook has seen, unless the length says zero: then with
/// the caller's own value (to set), or what is there already (to get). So it must where it has copied
/// a page at most of a longer value; and for keys, whose copy it would free without clearing it.
#[inline(always)]
fn leave(call: *mut bpf_sockopt, level: i32) {
    // SAFETY: the program's context.
    unsafe {
        if level == SOL_TLS {
            clear(call);
        } else if read!((*call).optlen) <= PAGE {
            return;
        }
    }
    answer!(call, optlen, 0_i32);
}

/// Copies word by word: LLVM takes a call of `memcpy` for it otherwise, and copies bytes.
///
/// # Safety
/// Both are of a map or of the kernel's copy, and in no part the same.
#[inline(always)]
unsafe fn copy(from: *const OriginalDestination, to: *mut OriginalDestination) {
    for word in 0..size_of::<OriginalDestination>() / size_of::<u64>() {
        // SAFETY: the caller's; within both.
        unsafe {
            let value = from.cast::<u64>().add(word).read_volatile();
            to.cast::<u64>().add(word).write_volatile(value);
        }
    }
}

/// Clears the kernel's copy of keys: `union tls_crypto_context` is no longer than this.
#[inline(always)]
fn clear(call: *mut bpf_sockopt) {
    const WORDS: usize = 8;
    // SAFETY: the program's context.
    let (start, end) = unsafe {
        (
            read!((*call).__bindgen_anon_2.optval).cast::<u64>(),
            read!((*call).__bindgen_anon_3.optval_end).cast::<u64>(),
        )
    };
    for word in 0..WORDS {
        let place = start.wrapping_add(word);
        if place.wrapping_add(1) > end {
            return;
        }
        // SAFETY: within the copy, as the line above has found.
        unsafe { place.write_volatile(0) };
    }
}

const PASS: i32 = 1;
const FAIL: i32 = 0;
/// As a length: nothing is left to do.
const DONE: i32 = -1;
/// The smallest page that a kernel has.
const PAGE: i32 = 4096;
const SOL_TLS: i32 = 282;
const ENOSPC: i32 = 28;
