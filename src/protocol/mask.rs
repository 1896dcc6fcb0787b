//! Masking (RFC 6455, 5.3): every byte from a client is XORed with one of four key bytes.

/// Unmasks in place. `phase` says how many bytes of the same payload came before these.
pub fn unmask(bytes: &mut [u8], key: [u8; 4], phase: usize) {
    let mut key = key;
    key.rotate_left(phase % 4);
    let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    // A plain loop over words is as fast as memory for long payloads and has no start-up for
    // short ones; the compiler makes vectors of it.
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        let value = u64::from_ne_bytes((&*word).try_into().expect("chunks_exact gives 8 bytes"));
        word.copy_from_slice(&(value ^ wide).to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmasking_is_the_definition_of_the_rfc_at_every_length_and_phase() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        for len in 0..70 {
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
}
