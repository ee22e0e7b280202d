//! Messages behind their length, as four bytes, big endian.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::error::{AttestedTlsError, ProtocolViolation};

/// Sends `outgoing` and reads one message of at most `limit` bytes, both at once: neither side can
/// make the other wait with full buffers.
pub(crate) async fn swap<T>(
    stream: &mut T,
    outgoing: &[u8],
    message: &'static str,
    limit: usize,
) -> Result<Vec<u8>, AttestedTlsError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (incoming, ()) = tokio::try_join!(
        read(&mut reader, message, limit),
        write(&mut writer, outgoing)
    )?;
    Ok(incoming)
}

pub(crate) async fn write<W>(writer: &mut W, message: &[u8]) -> Result<(), AttestedTlsError>
where
    W: AsyncWrite + Unpin,
{
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    writer.write_all(&length.to_be_bytes()).await?;
    writer.write_all(message).await?;
    writer.flush().await?;
    Ok(())
}

pub(crate) async fn read<R>(
    reader: &mut R,
    message: &'static str,
    limit: usize,
) -> Result<Vec<u8>, AttestedTlsError>
where
    R: AsyncRead + Unpin,
{
    let got = reader.read_u32().await? as usize;
    if got > limit {
        return Err(ProtocolViolation::TooLong {
            message,
            got,
            limit,
        }
        .into());
    }
    // Grows with what has come, not with what was announced.
    let mut bytes = Vec::new();
    reader.take(got as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < got {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_length_above_the_limit_is_refused_before_anything_follows_it() {
        let mut bytes = &u32::MAX.to_be_bytes()[..];
        let error = read(&mut bytes, "proof", 100).await.unwrap_err();
        let AttestedTlsError::Protocol(violation) = error else {
            panic!("{error}");
        };
        assert_eq!(
            violation,
            ProtocolViolation::TooLong {
                message: "proof",
                got: u32::MAX as usize,
                limit: 100
            }
        );
    }

    #[tokio::test]
    async fn a_message_that_ends_early_is_an_error() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(&200_000_u32.to_be_bytes()).await.unwrap();
        near.write_all(&[7; 10]).await.unwrap();
        drop(near);
        let mut far = far;
        let error = read(&mut far, "proof", 256 * 1024).await.unwrap_err();
        assert!(
            matches!(&error, AttestedTlsError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof),
            "{error}"
        );
    }

    #[tokio::test]
    async fn both_sides_may_send_more_than_the_buffers_hold() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let (long, longer) = (vec![1; 10_000], vec![2; 20_000]);
        let (at_near, at_far) = tokio::join!(
            swap(&mut near, &long, "proof", 20_000),
            swap(&mut far, &longer, "proof", 10_000)
        );
        assert_eq!(at_near.unwrap(), longer);
        assert_eq!(at_far.unwrap(), long);
    }
}
