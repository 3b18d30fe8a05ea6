//! What one durable write costs on the disk of the databases.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::outcome::{Outcome, Tell};
use crate::statistics::percentile;

/// How often; and how long at most, on a slow disk.
const TIMES: usize = 200;
const AT_MOST: Duration = Duration::from_secs(4);
const BLOCK_BYTES: usize = 4096;

/// How long it takes to write 4 KiB and have it on the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fsync {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Fsync {
    pub(crate) fn p50_ms(self) -> f64 {
        self.p50.as_secs_f64() * 1e3
    }

    pub(crate) fn p99_ms(self) -> f64 {
        self.p99.as_secs_f64() * 1e3
    }
}

/// Measures in `folder`. The file is as long as it will be before it begins, as a database's log mostly is.
pub(crate) fn probe(folder: &Path) -> Outcome<Fsync> {
    let path = folder.join("fsync-probe");
    let what = || format!("write {}", path.display());
    let mut file = File::create(&path).tell(what())?;
    file.write_all(&vec![0; BLOCK_BYTES * TIMES]).tell(what())?;
    file.sync_all().tell(what())?;
    file.seek(SeekFrom::Start(0)).tell(what())?;
    let begin = Instant::now();
    let mut times = Vec::with_capacity(TIMES);
    while times.len() < TIMES && begin.elapsed() < AT_MOST {
        let block = [times.len() as u8; BLOCK_BYTES];
        let start = Instant::now();
        file.write_all(&block).tell(what())?;
        file.sync_data().tell(what())?;
        times.push(start.elapsed());
    }
    std::fs::remove_file(&path).tell(format!("remove {}", path.display()))?;
    Ok(Fsync { p50: percentile(&mut times, 50.0), p99: percentile(&mut times, 99.0) })
}
