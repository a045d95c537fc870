//! Pipelines that a driver has compiled, kept in a file from one start to the next. What is read back is untrusted: a
//! driver takes such bytes at their word, so nothing reaches it that was not sealed by this build for this very driver, and
//! whose own header is not whole. It knows bytes and files, and no Vulkan calls.

use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Larger files are neither written nor read.
const FILE_BYTES_MAX: u64 = 64 << 20;
const MAGIC: &[u8; 8] = b"HESPERP1";
/// Magic, identity, digest.
const SEAL_BYTES: usize = 8 + 32 + 32;
/// `VkPipelineCacheHeaderVersionOne`.
const HEADER_BYTES: usize = 32;

/// Whose pipelines they are: as Vulkan's header names it, and all else that makes them useless elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub vendor: u32,
    pub device: u32,
    /// `pipelineCacheUUID`.
    pub cache_uuid: [u8; 16],
    pub driver_version: u32,
    pub driver_uuid: [u8; 16],
    /// The driver is Venus: behind its own header stands what the host's driver gave.
    pub venus: bool,
    /// SHA-256 of all kernels.
    pub build: [u8; 32],
}

/// Why bytes are not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    NotSealed,
    OtherDriverOrBuild,
    Damaged,
    /// Vulkan's header is not whole, or another device's. Lavapipe gives 20 bytes whose header claims 32, and crashes when
    /// it is given them (Mesa 26.2.6).
    Header,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::NotSealed => "it is no file of Hesper's",
            Refused::OtherDriverOrBuild => "it is another driver's or another build's",
            Refused::Damaged => "it is damaged",
            Refused::Header => "the driver's own header is not whole",
        })
    }
}

impl Identity {
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for word in [self.vendor, self.device, self.driver_version, u32::from(self.venus)] {
            hash.update(word.to_le_bytes());
        }
        hash.update(self.cache_uuid);
        hash.update(self.driver_uuid);
        hash.update(self.build);
        hash.finalize().into()
    }

    /// In hexadecimal digits, different for every other device, driver and build.
    pub fn text(&self) -> String {
        hexadecimal(&self.digest())
    }

    /// The file in `folder` for `what` is kept: one for each device and driver, whatever the build.
    pub fn path(&self, folder: &Path, what: &str, extension: &str) -> PathBuf {
        let uuid = hexadecimal(&self.cache_uuid);
        folder.join(format!("{what}-{:04x}-{:04x}-{uuid}.{extension}", self.vendor, self.device))
    }

    /// Whether a driver may be given these bytes: Vulkan's header is whole and names this device.
    fn check(&self, data: &[u8]) -> Result<(), Refused> {
        let behind = header(data, |vendor, device, uuid| {
            vendor == self.vendor && device == self.device && *uuid == self.cache_uuid
        })?;
        if self.venus {
            // The host's device is not known here.
            header(behind, |_, _, _| true)?;
        }
        Ok(())
    }

    /// The content of a file of `data`, for [`Identity::unseal`].
    pub fn seal(&self, data: &[u8]) -> Result<Vec<u8>, Refused> {
        self.check(data)?;
        Ok([&MAGIC[..], &self.digest(), Sha256::digest(data).as_slice(), data].concat())
    }

    /// The data in a file's content, if it is whole and this identity's.
    pub fn unseal<'f>(&self, file: &'f [u8]) -> Result<&'f [u8], Refused> {
        let (seal, data) = file.split_at_checked(SEAL_BYTES).ok_or(Refused::NotSealed)?;
        let (magic, seal) = seal.split_at(MAGIC.len());
        let (identity, digest) = seal.split_at(32);
        if magic != MAGIC {
            return Err(Refused::NotSealed);
        }
        if identity != self.digest() {
            return Err(Refused::OtherDriverOrBuild);
        }
        if digest != Sha256::digest(data).as_slice() {
            return Err(Refused::Damaged);
        }
        self.check(data)?;
        Ok(data)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What stands behind Vulkan's header, if that is whole and `is_wanted` of vendor, device and UUID.
fn header(data: &[u8], is_wanted: impl Fn(u32, u32, &[u8; 16]) -> bool) -> Result<&[u8], Refused> {
    let (words, uuid) = data.get(..HEADER_BYTES).and_then(|head| head.split_at_checked(16)).ok_or(Refused::Header)?;
    let word = |index: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| words[4 * index + byte]));
    let uuid = uuid.try_into().map_err(|_| Refused::Header)?;
    let (size, version) = (word(0) as usize, word(1));
    if size < HEADER_BYTES || version != 1 || !is_wanted(word(2), word(3), uuid) {
        return Err(Refused::Header);
    }
    data.get(size..).ok_or(Refused::Header)
}

/// A file's bytes; `None` where there is none.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than any that is written"));
    }
    Ok(Some(bytes))
}

/// Puts a file in place whole: readers and other writers see the old one or the new one.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{} bytes are too many", bytes.len())));
    }
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let (part, mut file) = open_part(path)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        // What is left of it is of no use; that it cannot be removed changes nothing.
        let _ = fs::remove_file(&part);
    }
    written
}

/// A new file beside `path` that no other process has.
fn open_part(path: &Path) -> io::Result<(PathBuf, File)> {
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let made = File::options().write(true).create_new(true).open(&part);
    match made {
        // A process of the same number died here, in another container perhaps; or a thread of this one is at work, and then
        // one of the two renames fails and says so.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&part)?;
            Ok((part.clone(), File::options().write(true).create_new(true).open(&part)?))
        }
        made => Ok((part, made?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity(venus: bool) -> Identity {
        Identity {
            vendor: 0x1af4,
            device: 7,
            cache_uuid: [3; 16],
            driver_version: 4,
            driver_uuid: [5; 16],
            venus,
            build: [6; 32],
        }
    }

    fn data(size: u32, vendor: u32, more: &[u8]) -> Vec<u8> {
        let words: Vec<u8> = [size, 1, vendor, 7].iter().flat_map(|word| word.to_le_bytes()).collect();
        [&words[..], &[3; 16], more].concat()
    }

    #[test]
    fn what_was_sealed_is_found_again_and_by_nobody_else() {
        let identity = identity(false);
        let data = data(32, 0x1af4, b"pipelines");
        let file = identity.seal(&data).expect("its header is whole");
        assert_eq!(identity.unseal(&file), Ok(&data[..]));
        let others = [
            Identity { driver_version: 5, ..identity.clone() },
            Identity { driver_uuid: [0; 16], ..identity.clone() },
            Identity { build: [0; 32], ..identity.clone() },
            Identity { device: 8, ..identity.clone() },
        ];
        for other in others {
            assert_eq!(other.unseal(&file), Err(Refused::OtherDriverOrBuild), "{other:?}");
        }
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            identity.unseal(&damaged).expect_err("a bit is wrong");
            identity.unseal(&file[..at]).expect_err("it is cut");
        }
        identity.unseal(&[&file[..], b"x"].concat()).expect_err("it is too long");
    }

    #[test]
    fn a_header_that_a_driver_would_stumble_over_is_refused() {
        let sealed = |venus, data: &[u8]| identity(venus).seal(data).map(|_| ());
        let whole = data(32, 0x1af4, b"");
        assert_eq!(sealed(false, &whole), Ok(()));
        // What lavapipe 26.2.6 gives.
        assert_eq!(sealed(false, &whole[..20]), Err(Refused::Header));
        assert_eq!(sealed(false, &data(33, 0x1af4, b"")), Err(Refused::Header));
        assert_eq!(sealed(false, &data(16, 0x1af4, b"")), Err(Refused::Header));
        assert_eq!(sealed(false, &data(u32::MAX, 0x1af4, b"")), Err(Refused::Header));
        assert_eq!(sealed(false, &data(32, 1, b"")), Err(Refused::Header));
        // Through Venus the same stands behind a header that is whole.
        assert_eq!(sealed(true, &data(32, 0x1af4, &whole[..20])), Err(Refused::Header));
        assert_eq!(sealed(true, &data(32, 0x1af4, &data(32, 99, b"x"))), Ok(()));
    }

    proptest! {
        #[test]
        fn no_bytes_are_taken_for_a_file(bytes in proptest::collection::vec(any::<u8>(), 0..300), magic: bool) {
            let file = if magic { [&MAGIC[..], &bytes].concat() } else { bytes };
            prop_assert!(identity(false).unseal(&file).is_err());
            prop_assert!(identity(true).unseal(&file).is_err());
        }

        #[test]
        fn any_data_is_sealed_whole_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), venus: bool, own: bool) {
            let identity = identity(venus);
            let bytes = if own { data(32, 0x1af4, &bytes) } else { bytes };
            if let Ok(file) = identity.seal(&bytes) {
                prop_assert_eq!(identity.unseal(&file), Ok(&bytes[..]));
            }
        }
    }

    #[test]
    fn files_are_replaced_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/down.bin");
        assert_eq!(read(&path).expect("absent"), None);
        for content in [&b"first"[..], b"second, longer", b"3"] {
            write(&path, content).expect("it can be written");
            assert_eq!(read(&path).expect("there").as_deref(), Some(content));
        }
        assert_eq!(
            fs::read_dir(path.parent().expect("a folder")).expect("readable").count(),
            1,
            "nothing is left over"
        );
        write(&folder.path().join("deep/down.bin/below"), b"x").expect_err("a file is no folder");
    }
}
