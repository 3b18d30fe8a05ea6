//! The form of the file: a tar archive in a zstd frame. Written here; read in [`super::unpack`].

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{BackupError, Manifest, Part, Progress, manifest::MANIFEST};

/// As fast as a disk, and half of what level 19 saves.
const LEVEL: i32 = 3;
/// Bytes read at once.
pub(super) const BUFFER: usize = 256 * 1024;

/// A file that goes into the archive.
#[derive(Debug)]
pub(super) struct Source {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its entry in the manifest.
    pub(super) part: Part,
}

/// Hex digits of a digest.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a file to know its size and hash.
pub(super) fn measure(
    path: PathBuf,
    name: String,
    progress: &mut dyn FnMut(u64),
) -> Result<Source, BackupError> {
    let failed = |error| BackupError::file("read", &path)(error);
    let mut file = File::open(&path).map_err(failed)?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0_u64, vec![0; BUFFER]);
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        let Some(chunk) = buffer.get(..read).filter(|chunk| !chunk.is_empty()) else { break };
        hash.update(chunk);
        bytes += read as u64;
        progress(bytes);
    }
    let part = Part { name, bytes, sha256: hex(&hash.finalize()) };
    Ok(Source { path, part })
}

/// Writes the archive and gives back what it was written to, not yet fsynced. `to` is for messages.
pub(super) fn write<W: Write>(
    out: W,
    to: &Path,
    manifest: &Manifest,
    sources: &[Source],
    progress: &mut Progress,
) -> Result<W, BackupError> {
    let failed = BackupError::file("write", to);
    let mut frame = zstd::Encoder::new(out, LEVEL).map_err(&failed)?;
    frame.include_checksum(true).map_err(&failed)?;
    let mut archive = tar::Builder::new(frame);
    let json = manifest.to_json().map_err(|error| failed(error.into()))?;
    let all = manifest.bytes();
    let mut header = header(MANIFEST, json.len() as u64, manifest.created_at_ms).map_err(&failed)?;
    archive.append(&header, json.as_slice()).map_err(&failed)?;
    let mut done = 0;
    for Source { path, part } in sources {
        header = self::header(&part.name, part.bytes, manifest.created_at_ms).map_err(&failed)?;
        let file = File::open(path).map_err(BackupError::file("read", path))?;
        let mut content = Content {
            file,
            left: part.bytes,
            hash: Sha256::new(),
            failure: None,
            progress,
            done: &mut done,
            all,
        };
        let appended = archive.append(&header, &mut content);
        let Content { hash, left, failure, .. } = content;
        // Reading and writing are one call: whose failure it was has been noted.
        if let Some(error) = failure {
            return Err(BackupError::file("read", path)(error));
        }
        appended.map_err(&failed)?;
        if left > 0 || hex(&hash.finalize()) != part.sha256 {
            return Err(BackupError::Changed { path: path.clone() });
        }
    }
    let frame = archive.into_inner().map_err(&failed)?;
    frame.finish().map_err(&failed)
}

fn header(name: &str, bytes: u64, made_at_ms: i64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_mtime(u64::try_from(made_at_ms / 1000).unwrap_or(0));
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

/// A file as the manifest says it is; a shorter one is filled up, and noticed afterwards.
struct Content<'a> {
    file: File,
    left: u64,
    hash: Sha256,
    failure: Option<io::Error>,
    progress: &'a mut Progress,
    done: &'a mut u64,
    all: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most) else { return Ok(0) };
        let read = match self.file.read(buffer) {
            Ok(read) => read,
            Err(error) => {
                let kind = error.kind();
                if kind != io::ErrorKind::Interrupted {
                    self.failure = Some(error);
                }
                return Err(kind.into());
            }
        };
        self.hash.update(buffer.get(..read).unwrap_or_default());
        self.left -= read as u64;
        *self.done += read as u64;
        self.progress.at("packing", *self.done, self.all);
        Ok(read)
    }
}
