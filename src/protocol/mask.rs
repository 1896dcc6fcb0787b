//! Masking (RFC 6455, 5.3): every byte from a client is XORed with one of four key bytes.

/// Unmasks in place. `phase` says how many bytes of the same payload came before these.
#[inline]
pub fn unmask(bytes: &mut [u8], key: [u8; 4], phase: usize) {
    let key = turned(u32::from_le_bytes(key), phase);
    match bytes.len() {
        ..LONG_BYTES => unmask_words(bytes, key),
        _ => unmask_blocks(bytes, key),
    }
}

/// A plain loop over words has no start-up, and the compiler makes vectors of it.
#[inline]
fn unmask_words(bytes: &mut [u8], key: u32) {
    let wide = u64::from(key) << 32 | u64::from(key);
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        let value = u64::from_le_bytes((&*word).try_into().expect("chunks_exact gives 8 bytes"));
        word.copy_from_slice(&(value ^ wide).to_le_bytes());
    }
    // At most a half, and three bytes.
    let mut halves = words.into_remainder().chunks_exact_mut(4);
    for half in &mut halves {
        let value = u32::from_le_bytes((&*half).try_into().expect("chunks_exact gives 4 bytes"));
        half.copy_from_slice(&(value ^ key).to_le_bytes());
    }
    for (byte, key) in halves.into_remainder().iter_mut().zip(key.to_le_bytes()) {
        *byte ^= key;
    }
}

/// The same where so much is to be done that it pays to do many words at once.
#[inline(never)]
fn unmask_blocks(bytes: &mut [u8], key: u32) {
    // Stores across the border of two cache lines cost twice as much.
    let (head, bytes) = bytes.split_at_mut(bytes.as_ptr().align_offset(BLOCK_BYTES));
    unmask_words(head, key);
    let key = turned(key, head.len());
    let mut blocks = bytes.chunks_exact_mut(BLOCK_BYTES);
    for block in &mut blocks {
        let block: &mut [u8; BLOCK_BYTES] = block.try_into().expect("chunks_exact gives a block");
        unmask_words(block, key);
    }
    unmask_words(blocks.into_remainder(), key);
}

/// The key, whose first byte is the lowest, after so many bytes.
fn turned(key: u32, by: usize) -> u32 {
    key.rotate_right(8 * (by % 4) as u32)
}

/// Two cache lines.
const BLOCK_BYTES: usize = 128;
/// From here on blocks are faster.
const LONG_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmasking_is_the_definition_of_the_rfc_at_every_length_and_phase() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        for len in (0..70).chain(LONG_BYTES - 4..LONG_BYTES + 4).chain([2 * LONG_BYTES + 77]) {
            for phase in 0..9 {
                let plain: Vec<u8> = (0..len).map(|i| (i * 7 + phase) as u8).collect();
                let expected: Vec<u8> =
                    plain.iter().enumerate().map(|(i, byte)| byte ^ key[(i + phase) % 4]).collect();
                let mut bytes = plain;
                unmask(&mut bytes, key, phase);
                assert_eq!(bytes, expected, "length {len}, phase {phase}");
            }
        }
    }

    #[test]
    fn unmasking_is_the_same_wherever_the_bytes_lie_and_touches_no_others() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        for place in 0..2 * BLOCK_BYTES {
            for (len, phase) in [(LONG_BYTES, place), (LONG_BYTES + 333, 1)] {
                let mut bytes = vec![0; 2 * LONG_BYTES];
                unmask(&mut bytes[place..place + len], key, phase);
                let expected = |i: usize| match (place..place + len).contains(&i) {
                    true => key[(i - place + phase) % 4],
                    false => 0,
                };
                assert!((0..bytes.len()).all(|i| bytes[i] == expected(i)), "{len} bytes at {place}");
            }
        }
    }
}
