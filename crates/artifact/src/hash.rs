//! Content hashes (blake3, hex) and the key that decides a draw.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::error::{input_error, open_input};

/// blake3 of bytes, as 64 hex digits.
pub fn hash_bytes(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// blake3 of a file's content.
pub fn hash_file(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(open_input(path)?)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// blake3 over the names and contents of all files below a folder, in name order. Hidden files
/// do not count.
pub fn hash_dir(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for file in files_below(path)? {
        let name = file.strip_prefix(path).unwrap_or(&file).to_string_lossy().into_owned();
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(hash_file(&file)?.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// All files below a folder, sorted; hidden ones left out.
pub fn files_below(path: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|error| input_error(&folder, &error))? {
            let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            let target = entry.path();
            if target.is_dir() { folders.push(target) } else { files.push(target) }
        }
    }
    files.sort();
    Ok(files)
}

/// The key by which a mixture draws: it takes the items with the smallest keys of a stratum. Row
/// order, threads and shards cannot matter, and a larger draw contains the smaller one.
///
/// blake3(seed, little-endian ‖ 0 ‖ stratum ‖ 0 ‖ id).
pub fn draw_key(seed: u64, stratum: &str, id: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&[0]);
    hasher.update(stratum.as_bytes());
    hasher.update(&[0]);
    hasher.update(id.as_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_blake3() {
        // The empty input's digest as the BLAKE3 paper's test vectors give it.
        assert_eq!(
            hash_bytes(b""),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn a_folder_hash_sees_names_and_contents() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::write(path.join("a"), "1").unwrap();
        let first = hash_dir(path).unwrap();
        std::fs::rename(path.join("a"), path.join("b")).unwrap();
        let renamed = hash_dir(path).unwrap();
        std::fs::write(path.join("b"), "2").unwrap();
        assert_ne!(first, renamed);
        assert_ne!(renamed, hash_dir(path).unwrap());
    }

    #[test]
    fn a_draw_key_keeps_its_parts_apart() {
        assert_ne!(draw_key(1, "ab", "c"), draw_key(1, "a", "bc"));
        assert_ne!(draw_key(1, "a", "b"), draw_key(2, "a", "b"));
    }
}
