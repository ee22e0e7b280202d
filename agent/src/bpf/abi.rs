//! Which maps an agent can share with another one, of another build as well.

use std::{collections::BTreeMap, sync::OnceLock};

use aya_obj::Object;
use sha2::{Digest, Sha256};

use super::OBJECT;

/// The version of what is in the maps and of the socket options. Objects of one version may take each
/// other's place over the same maps, whatever their programs do.
pub(crate) fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| of(OBJECT, ebpf_abi::VERSION))
}

/// From what every map is, and from what that does not show.
fn of(object: &[u8], meaning: u32) -> String {
    let mut digest = Sha256::new();
    digest.update(meaning.to_le_bytes());
    match Object::parse(object) {
        Ok(object) => {
            let maps: BTreeMap<_, _> = object.maps.iter().collect();
            // What begins with a dot is the programs' own data, new each time they are loaded.
            for (name, map) in maps.into_iter().filter(|(name, _)| !name.starts_with('.')) {
                digest.update(name);
                for number in [
                    map.map_type(),
                    map.key_size(),
                    map.value_size(),
                    map.max_entries(),
                    map.map_flags(),
                ] {
                    digest.update(number.to_le_bytes());
                }
            }
        }
        // One that can't be read can't be loaded either: it has nothing in common with others.
        Err(_) => digest.update(object),
    }
    hex::encode(&digest.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn what_programs_do_is_not_in_the_version_and_what_maps_are_is() {
        let own = version();
        assert_eq!(of(OBJECT, ebpf_abi::VERSION), own);
        assert_ne!(of(OBJECT, ebpf_abi::VERSION + 1), own);

        // Another program, over the same maps.
        let other = replaced(b"egress to port ", b"EGRESS TO PORT ");
        assert_ne!(other, OBJECT);
        assert_eq!(of(&other, ebpf_abi::VERSION), own);

        // Another name of a map.
        let other = replaced(b"TRUE_PEERS\0", b"REAL_PEERS\0");
        assert_ne!(of(&other, ebpf_abi::VERSION), own);
        assert_ne!(of(b"none", 1), of(b"other", 1));
    }

    /// The object with each of these texts begun anew.
    fn replaced(text: &[u8], by: &[u8]) -> Vec<u8> {
        let mut object = OBJECT.to_vec();
        let mut found = 0;
        for at in 0..object.len() - text.len() {
            if object[at..].starts_with(text) {
                object[at..at + by.len()].copy_from_slice(by);
                found += 1;
            }
        }
        assert!(found > 0);
        object
    }

    /// Sizes show in the version by themselves; meanings don't. Where this fails, look whether anything of
    /// before would be misread: then raise `ebpf_abi::VERSION`. In any case write down what was looked at.
    #[test]
    fn changes_of_what_kernel_and_agent_share_were_looked_at() {
        const LOOKED_AT: &str = "b7a6909e3f3ec5f8";
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ebpf/abi/src");
        let mut files: Vec<_> = fs::read_dir(sources)
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        let mut digest = Sha256::new();
        for file in files {
            digest.update(fs::read(file).unwrap());
        }
        assert_eq!(hex::encode(&digest.finalize()[..8]), LOOKED_AT);
    }
}
