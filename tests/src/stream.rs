//! Streams of bytes that both ends can make from a seed, with a marker that a sniffer can find.

/// What a sniffer looks for: if it is on the wire, plaintext is on the wire.
pub const MARKER: &[u8] = b"SEALWIRE-PLAINTEXT-MARKER";

/// A stream carries [`MARKER`] at every multiple of this offset, in bytes.
pub const BLOCK: usize = 1024;

/// An endless pseudo-random stream; the same seed gives the same bytes.
#[derive(Debug, Clone)]
pub struct Stream {
    seed: u64,
    position: u64,
    block: Box<[u8; BLOCK]>,
}

impl Stream {
    /// The stream of `seed`, from its first byte.
    pub fn new(seed: u64) -> Self {
        let mut stream = Self {
            seed,
            position: 0,
            block: Box::new([0; BLOCK]),
        };
        stream.make_block();
        stream
    }

    /// Writes the next `out.len()` bytes of the stream to `out`.
    pub fn fill(&mut self, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let next = self.next_bytes(out.len() - done);
            out[done..done + next.len()].copy_from_slice(next);
            done += self.advance(out.len() - done);
        }
    }

    /// Compares the next `got.len()` bytes of the stream with `got`; the offset in the stream of
    /// the first byte that differs.
    pub fn difference(&mut self, got: &[u8]) -> Option<u64> {
        let mut done = 0;
        while done < got.len() {
            let start = self.position;
            let want = self.next_bytes(got.len() - done);
            if *want != got[done..done + want.len()] {
                let same = want
                    .iter()
                    .zip(&got[done..])
                    .take_while(|(want, got)| want == got);
                return Some(start + same.count() as u64);
            }
            done += self.advance(got.len() - done);
        }
        None
    }

    /// What is left of the current block, at most `limit` bytes.
    fn next_bytes(&self, limit: usize) -> &[u8] {
        let offset = self.offset();
        &self.block[offset..BLOCK.min(offset + limit)]
    }

    fn advance(&mut self, limit: usize) -> usize {
        let step = limit.min(BLOCK - self.offset());
        self.position += step as u64;
        if self.offset() == 0 {
            self.make_block();
        }
        step
    }

    fn offset(&self) -> usize {
        (self.position % BLOCK as u64) as usize
    }

    fn make_block(&mut self) {
        let mut random = Random::new(self.seed ^ self.position.rotate_left(32));
        for word in self.block.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        self.block[..MARKER.len()].copy_from_slice(MARKER);
    }
}

/// `SplitMix64`: reproducible, fast, and random enough for sizes and content.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_does_not_depend_on_how_it_is_cut() {
        let mut whole = vec![0; 10_000];
        Stream::new(7).fill(&mut whole);

        let mut cut = Vec::new();
        let mut stream = Stream::new(7);
        let mut random = Random::new(1);
        while cut.len() < whole.len() {
            let size = (random.next() as usize % 1500).min(whole.len() - cut.len());
            let mut piece = vec![0; size];
            stream.fill(&mut piece);
            cut.extend(piece);
        }
        assert_eq!(whole, cut);
        assert_eq!(Stream::new(7).difference(&cut), None);
    }

    #[test]
    fn a_flipped_bit_is_found_where_it_is() {
        let mut bytes = vec![0; 5000];
        Stream::new(7).fill(&mut bytes);
        bytes[4321] ^= 1;
        let mut stream = Stream::new(7);
        assert_eq!(stream.difference(&bytes[..3000]), None);
        assert_eq!(stream.difference(&bytes[3000..]), Some(4321));
    }

    #[test]
    fn the_marker_is_in_every_block() {
        let mut bytes = vec![0; 8 * BLOCK];
        Stream::new(7).fill(&mut bytes);
        assert_eq!(memchr::memmem::find_iter(&bytes, MARKER).count(), 8);
    }
}
