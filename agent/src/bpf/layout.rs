//! Where this kernel keeps what local acceleration must know of a socket, read from the kernel's own
//! type information (BTF).
//!
//! Knows as much of the format as that takes: structures' members by name and offset, enumerators by
//! name. rustc can't record such offsets in the `eBPF` object for the loader to fill in, as clang can.
//! Format: Documentation/bpf/btf.rst of Linux 6.18.

use std::{collections::HashMap, fs, io, sync::OnceLock};

use ebpf_abi::SocketLayout;
use thiserror::Error;

/// Why the layout of sockets is not known.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// The kernel's type information can't be read.
    #[error("reading {KERNEL}: {0}")]
    Unreadable(#[from] io::Error),
    /// It is not in the format that we know.
    #[error("{KERNEL} is not in the format that the agent knows")]
    Malformed,
    /// Something has another name in this kernel, or another place.
    #[error("this kernel has no `{0}`")]
    Missing(&'static str),
}

/// The layout that the running kernel has, read once.
///
/// # Errors
/// Where it has no BTF, or lacks a field.
pub(super) fn of_kernel() -> Result<&'static SocketLayout, LayoutError> {
    static LAYOUT: OnceLock<SocketLayout> = OnceLock::new();
    if let Some(layout) = LAYOUT.get() {
        return Ok(layout);
    }
    let types = Types::parse(&fs::read(KERNEL)?).ok_or(LayoutError::Malformed)?;
    let layout = types.socket_layout()?;
    Ok(LAYOUT.get_or_init(|| layout))
}

/// What is wanted of the type information: offsets in bytes of members by the structure they are in,
/// and enumerators.
#[derive(Debug, Default)]
struct Types {
    members: HashMap<(&'static str, &'static str), u32>,
    enumerators: HashMap<&'static str, u32>,
}

/// A structure or union, as its members' entries.
#[derive(Clone, Copy)]
struct Composite<'a> {
    members: &'a [u8],
    has_bit_fields: bool,
}

impl Types {
    /// `None` where the bytes are cut short or not BTF.
    fn parse(bytes: &[u8]) -> Option<Self> {
        if u16_at(bytes, 0)? != MAGIC {
            return None;
        }
        let header = u32_at(bytes, 4)? as usize;
        let section = |at: usize| -> Option<&[u8]> {
            let start = header.checked_add(u32_at(bytes, at)? as usize)?;
            bytes.get(start..start.checked_add(u32_at(bytes, at + 4)? as usize)?)
        };
        let (mut types, strings) = (section(8)?, section(16)?);
        let mut found = Self::default();
        let (mut wanted, mut anonymous) = (Vec::new(), HashMap::new());
        // Number 0 is `void`, which is not listed.
        let mut number = 0;
        while !types.is_empty() {
            number += 1;
            let (name, info) = (u32_at(types, 0)?, u32_at(types, 4)?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let length = match kind {
                KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => count * MEMBER_LEN,
                KIND_ENUM | KIND_FUNC_PROTO => count * ENUMERATOR_LEN,
                KIND_ARRAY => 12,
                KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                1..=KIND_LAST => 0,
                _ => return None,
            };
            let entries = types.get(TYPE_LEN..TYPE_LEN + length)?;
            types = &types[TYPE_LEN + length..];
            let name = text(strings, name)?;
            let composite = Composite {
                members: entries,
                has_bit_fields: info >> 31 == 1,
            };
            match kind {
                KIND_STRUCT | KIND_UNION if name.is_empty() => {
                    anonymous.insert(number, composite);
                }
                KIND_STRUCT => {
                    wanted.extend(one_of(&STRUCTURES, name).map(|name| (name, composite)));
                }
                KIND_ENUM if name == SOCK_FLAGS => {
                    for entry in entries.chunks_exact(ENUMERATOR_LEN) {
                        if let Some(name) = one_of(&[ZERO_COPY], text(strings, u32_at(entry, 0)?)?)
                        {
                            found.enumerators.insert(name, u32_at(entry, 4)?);
                        }
                    }
                }
                _ => {}
            }
        }
        for (name, composite) in wanted {
            found.add_members(name, composite, 0, &anonymous, strings, DEEPEST)?;
        }
        Some(found)
    }

    /// Members of structures without a name count as those of the one that they are in.
    fn add_members(
        &mut self,
        structure: &'static str,
        composite: Composite<'_>,
        base: u32,
        anonymous: &HashMap<u32, Composite<'_>>,
        strings: &[u8],
        depth: u32,
    ) -> Option<()> {
        for member in composite.members.chunks_exact(MEMBER_LEN) {
            let (name, number, bits) = (u32_at(member, 0)?, u32_at(member, 4)?, u32_at(member, 8)?);
            let (bits, width) = if composite.has_bit_fields {
                (bits & 0x00ff_ffff, bits >> 24)
            } else {
                (bits, 0)
            };
            let name = text(strings, name)?;
            let offset = base.checked_add(bits / 8)?;
            if let Some(name) = one_of(&MEMBERS, name)
                && width == 0
            {
                self.members.insert((structure, name), offset);
            } else if name.is_empty()
                && depth > 0
                && let Some(inner) = anonymous.get(&number)
            {
                self.add_members(structure, *inner, offset, anonymous, strings, depth - 1)?;
            }
        }
        Some(())
    }

    fn socket_layout(&self) -> Result<SocketLayout, LayoutError> {
        let member = |structure, name| {
            let offset = self.members.get(&(structure, name)).copied();
            offset.ok_or(LayoutError::Missing(name))
        };
        let zero_copy_bit = self.enumerators.get(ZERO_COPY).copied();
        Ok(SocketLayout {
            write_seq: member("tcp_sock", "write_seq")?,
            snd_una: member("tcp_sock", "snd_una")?,
            rcv_nxt: member("tcp_sock", "rcv_nxt")?,
            copied_seq: member("tcp_sock", "copied_seq")?,
            ulp: member("inet_connection_sock", "icsk_ulp_ops")?,
            flags: member("sock_common", "skc_flags")?,
            socket: member("sock", "sk_socket")?,
            user_data: member("sock", "sk_user_data")?,
            unread: member("sk_psock", "ingress_msg")?,
            file: member("socket", "file")?,
            file_flags: member("file", "f_flags")?,
            zero_copy_bit: zero_copy_bit.ok_or(LayoutError::Missing(ZERO_COPY))?,
        })
    }
}

fn one_of(known: &[&'static str], name: &str) -> Option<&'static str> {
    known.iter().find(|known| **known == name).copied()
}

/// The string at `offset`, up to its NUL; a name that is no UTF-8 is none of those we look for.
fn text(strings: &[u8], offset: u32) -> Option<&str> {
    let rest = strings.get(offset as usize..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    Some(std::str::from_utf8(&rest[..end]).unwrap_or(""))
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..offset + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

const KERNEL: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
/// `struct btf_type`.
const TYPE_LEN: usize = 12;
/// `struct btf_member`.
const MEMBER_LEN: usize = 12;
/// `struct btf_enum`.
const ENUMERATOR_LEN: usize = 8;
/// How deep structures without a name may be in each other.
const DEEPEST: u32 = 8;

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;
const KIND_LAST: u32 = KIND_ENUM64;

const STRUCTURES: [&str; 7] = [
    "tcp_sock",
    "inet_connection_sock",
    "sock",
    "sock_common",
    "sk_psock",
    "socket",
    "file",
];
const MEMBERS: [&str; 11] = [
    "write_seq",
    "snd_una",
    "rcv_nxt",
    "copied_seq",
    "icsk_ulp_ops",
    "skc_flags",
    "sk_socket",
    "sk_user_data",
    "ingress_msg",
    "file",
    "f_flags",
];
const SOCK_FLAGS: &str = "sock_flags";
const ZERO_COPY: &str = "SOCK_ZEROCOPY";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernels_layout_is_found() {
        let layout = of_kernel().unwrap();
        // Whatever the kernel: a sequence number takes four bytes, and a `sock` is what a `tcp_sock`
        // begins with.
        assert!(layout.rcv_nxt > layout.socket && layout.write_seq > layout.flags);
        let numbers = [
            layout.write_seq,
            layout.snd_una,
            layout.rcv_nxt,
            layout.copied_seq,
        ];
        assert!(numbers.iter().all(|offset| offset % 4 == 0), "{layout:?}");
    }

    #[test]
    fn type_information_cut_short_anywhere_is_no_panic() {
        let bytes = sample();
        assert!(Types::parse(&bytes).is_some());
        for length in 0..bytes.len() {
            assert!(Types::parse(&bytes[..length]).is_none(), "{length}");
        }
    }

    #[test]
    fn members_and_enumerators_are_found_by_name() {
        let types = Types::parse(&sample()).unwrap();
        assert_eq!(types.members.get(&("socket", "file")), Some(&16));
        assert_eq!(types.enumerators.get(ZERO_COPY), Some(&9));
        assert!(matches!(
            types.socket_layout(),
            Err(LayoutError::Missing("write_seq"))
        ));
    }

    /// `struct socket { int: 3; union { void *file; }; }` with the union at 16, and
    /// `enum sock_flags { SOCK_ZEROCOPY = 9 }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0socket\0file\0sock_flags\0SOCK_ZEROCOPY\0";
        let mut types = Vec::new();
        let mut words = |words: &[u32]| {
            types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        };
        words(&[0, KIND_INT << 24, 4, 32]);
        words(&[1, 1 << 31 | KIND_STRUCT << 24 | 2, 24]);
        words(&[0, 1, 3 << 24]);
        words(&[0, 3, 128]);
        words(&[0, KIND_UNION << 24 | 1, 8]);
        words(&[8, 1, 0]);
        words(&[13, KIND_ENUM << 24 | 1, 4]);
        words(&[24, 9]);
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let (types_len, strings_len) = (types.len() as u32, strings.len() as u32);
        for word in [24, 0, types_len, types_len, strings_len] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }
}
