//! Messages between the agent and its loader, with descriptors beside them.
//!
//! A length in four bytes, then JSON: a message may be longer than a packet, as those of 65,535 ports
//! are. The descriptors come with the length.

use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};

/// One end of a conversation.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

impl Channel {
    /// Both ends of a new one.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (near, far) = UnixStream::pair()?;
        Ok((Self(near), Self(far)))
    }

    /// How long the other end may take for an answer.
    pub(super) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(patience))
    }

    pub(super) fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let length = u32::try_from(text.len()).ok().filter(|it| *it <= LONGEST);
        let length = length.ok_or(io::ErrorKind::InvalidInput)?.to_le_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Four bytes go whole or not at all.
        let parts = [IoSlice::new(&length)];
        sendmsg(&self.0, &parts, &mut beside, SendFlags::NOSIGNAL)?;
        (&self.0).write_all(&text)
    }

    /// The next message, with its descriptors; `None` where the other end is gone.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut length = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut length)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match recvmsg(&self.0, &mut parts, &mut beside, flags) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                received => break received?.bytes,
            }
        };
        let descriptors = beside
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        match received {
            0 => return Ok(None),
            4 => {}
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        let length = u32::from_le_bytes(length);
        if length > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut text = vec![0; length as usize];
        (&self.0).read_exact(&mut text)?;
        Ok(Some((serde_json::from_slice(&text)?, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0.into()
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(socket.into())
    }
}

/// Bytes of a message: some 65,536 ports, or as many addresses.
const LONGEST: u32 = 32 << 20;

/// Descriptors beside a message.
const MOST: usize = 4;

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, Seek as _, Write as _},
        os::fd::AsFd as _,
        thread,
    };

    use super::{Channel, LONGEST};

    #[test]
    fn messages_longer_than_a_socket_holds_arrive_each_with_its_descriptors() {
        let (near, far) = Channel::pair().unwrap();
        let long = "x".repeat(1 << 20);
        let text = long.clone();
        let sender = thread::spawn(move || {
            let mut files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
            for (file, word) in files.iter_mut().zip(["first", "second"]) {
                file.write_all(word.as_bytes()).unwrap();
                file.rewind().unwrap();
            }
            near.send(&text, &[files[0].as_fd(), files[1].as_fd()])
                .unwrap();
            near.send(&"none", &[]).unwrap();
        });
        let (message, descriptors) = far.receive::<String>().unwrap().unwrap();
        assert_eq!(message, long);
        let read = |descriptor| {
            let mut word = String::new();
            File::from(descriptor).read_to_string(&mut word).unwrap();
            word
        };
        let words: Vec<_> = descriptors.into_iter().map(read).collect();
        assert_eq!(words, ["first", "second"]);
        let (message, descriptors) = far.receive::<String>().unwrap().unwrap();
        assert_eq!((message.as_str(), descriptors.len()), ("none", 0));
        sender.join().unwrap();
        assert!(far.receive::<String>().unwrap().is_none());
    }

    #[test]
    fn a_message_that_says_that_it_is_endless_is_refused() {
        let (near, far) = Channel::pair().unwrap();
        (&near.0).write_all(&(LONGEST + 1).to_le_bytes()).unwrap();
        far.receive::<String>().unwrap_err();
    }
}
