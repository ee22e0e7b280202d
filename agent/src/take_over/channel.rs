//! Messages between two agents of one machine, with descriptors beside them.

use std::{
    fs, io,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind,
    connect, listen, recvmsg, sendmsg, socket_with,
    sockopt::{Timeout, set_socket_timeout, socket_peercred},
};
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::Terms;
use crate::inherited::Item;

/// What is said, one a packet.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// The heir wants to take over.
    TakeOver(Terms),
    /// It may not.
    Refused(String),
    /// What the descriptor beside this is.
    Item(Item),
    /// That was everything.
    Yielded,
    /// The heir serves; the holder may drain for so long.
    Serving {
        /// Seconds.
        drain: u64,
    },
    /// The holder accepts nothing more.
    Left,
    /// The service manager knows the heir as the main process; the holder may end.
    Announced,
}

/// One conversation.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

/// Where the holder is asked.
#[derive(Debug)]
pub(super) struct Door(OwnedFd);

impl Door {
    /// Opens it in place of one that another agent of the instance has left. To be called with the
    /// instance's lock.
    pub(super) fn open(instance: &str) -> io::Result<Self> {
        let path = path(instance);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = socket()?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, 1)?;
        Ok(Self(socket))
    }

    /// The next who asks, if it is root as the agent is.
    pub(super) fn next(&self) -> io::Result<Channel> {
        loop {
            let socket = accept_with(&self.0, SocketFlags::CLOEXEC)?;
            if socket_peercred(&socket)?.uid.is_root() {
                return Ok(Channel(socket));
            }
        }
    }
}

impl Channel {
    /// To the agent that serves the instance; `None` where none does, or none that can be asked.
    pub(super) fn connect(instance: &str) -> io::Result<Option<Self>> {
        let socket = socket()?;
        match connect(&socket, &SocketAddrUnix::new(path(instance))?) {
            Ok(()) => Ok(Some(Self(socket))),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The process at the other end.
    pub(super) fn peer(&self) -> io::Result<OwnedFd> {
        let pid = socket_peercred(&self.0)?.pid;
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    }

    /// How long the next answers may take.
    pub(super) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        for which in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&self.0, which, Some(patience))?;
        }
        Ok(())
    }

    /// Waits for as long as it takes from now on.
    pub(super) fn be_patient(&self) -> io::Result<()> {
        Ok(set_socket_timeout(&self.0, Timeout::Recv, None)?)
    }

    pub(super) fn send(&self, message: &Message) -> io::Result<()> {
        self.send_with(message, None)
    }

    pub(super) fn send_item(&self, item: Item, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.send_with(&Message::Item(item), Some(descriptor))
    }

    fn send_with(&self, message: &Message, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.as_slice();
        if !descriptors.is_empty() {
            beside.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let parts = [IoSlice::new(&text)];
        sendmsg(&self.0, &parts, &mut beside, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next message, with its descriptor; `None` where the other agent has ended.
    pub(super) fn receive(&self) -> io::Result<Option<(Message, Option<OwnedFd>)>> {
        let mut text = [0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut text)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let len = match recvmsg(self.0.as_fd(), &mut parts, &mut beside, flags) {
            Ok(received) => received.bytes,
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
        };
        if len == 0 {
            return Ok(None);
        }
        let message = serde_json::from_slice(&text[..len])?;
        let descriptor = beside.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        Ok(Some((message, descriptor)))
    }
}

fn socket() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

fn path(instance: &str) -> PathBuf {
    crate::instance::directory().join(format!("{instance}.sock"))
}

/// Bytes of a message: a reason, or a workload's name.
const LONGEST: usize = 4096;
