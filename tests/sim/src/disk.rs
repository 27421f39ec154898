//! A disk that keeps only what was synced: on a power cut each 512-byte sector that was written
//! since the last sync is what it was, or any version written since, each decided on its own. A
//! killed process loses nothing that it wrote; a failed sync counts as a power cut.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::StorageBackend;
use rt::Rng;

const SECTOR: usize = 512;
/// Versions of the witness that a power cut may bring back.
const WITNESSES: usize = 4;

/// How a server dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// The process is killed; what it wrote stays.
    Kill,
    /// The machine loses power: nothing unsynced stays.
    LoseAll,
    /// The same; of what was unsynced anything may stay.
    Tear,
}

/// A server's disk. Clones share it; it outlives the server's starts.
#[derive(Clone)]
pub(crate) struct Disk(Arc<Mutex<Inner>>);

struct Inner {
    durable: Vec<u8>,
    now: Vec<u8>,
    /// Versions of each sector since the last sync.
    dirty: BTreeMap<usize, Vec<[u8; SECTOR]>>,
    witness: Vec<[u8; 32]>,
    /// Only the handle of this start may use it.
    start: u64,
    dead: bool,
    /// Operations until it dies under the server's hands.
    fuse: Option<u64>,
    fail_sync: bool,
    /// Bounds of the time that a commit takes, in microseconds.
    pace_us: (u64, u64),
    syncs: u64,
}

/// The disk as one start of a server holds it.
pub(crate) struct Handle {
    disk: Disk,
    start: u64,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "disk of start {}", self.start)
    }
}

fn gone() -> io::Error {
    io::Error::other("the disk is gone")
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            durable: Vec::new(),
            now: Vec::new(),
            dirty: BTreeMap::new(),
            witness: Vec::new(),
            start: 0,
            dead: false,
            fuse: None,
            fail_sync: false,
            pace_us: FAST,
            syncs: 0,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the next start of the server.
    pub(crate) fn open(&self) -> Arc<Handle> {
        let mut inner = self.inner();
        inner.start += 1;
        inner.dead = false;
        inner.fuse = None;
        inner.fail_sync = false;
        Arc::new(Handle { disk: self.clone(), start: inner.start })
    }

    pub(crate) fn witness(&self) -> Option<[u8; 32]> {
        self.inner().witness.last().copied()
    }

    /// The server dies; its handle works no more.
    pub(crate) fn die(&self, how: Death, rng: &Rng) {
        let mut inner = self.inner();
        let failed_sync = inner.dead && inner.fail_sync;
        inner.dead = true;
        match how {
            Death::Kill if !failed_sync => {}
            Death::LoseAll => inner.lose(|_| 0),
            Death::Kill | Death::Tear => {
                inner.lose(|versions| rng.below(versions as u64 + 1) as usize);
            }
        }
        if how != Death::Kill {
            let lost = rng.below(inner.witness.len() as u64) as usize;
            let kept = inner.witness.len() - lost;
            inner.witness.truncate(kept);
        }
    }

    /// It dies at one of its next operations.
    pub(crate) fn light_fuse(&self, operations: u64) {
        self.inner().fuse = Some(operations);
    }

    /// Its next sync fails.
    pub(crate) fn fail_next_sync(&self) {
        self.inner().fail_sync = true;
    }

    /// Whether a fault was ordered: then the server's death is no surprise.
    pub(crate) fn is_doomed(&self) -> bool {
        let inner = self.inner();
        inner.dead || inner.fail_sync || inner.fuse.is_some()
    }

    pub(crate) fn set_pace(&self, pace_us: (u64, u64)) {
        self.inner().pace_us = pace_us;
    }

    pub(crate) fn commit_time(&self, rng: &Rng) -> Duration {
        let (least, most) = self.inner().pace_us;
        Duration::from_micros(least + rng.below(most - least + 1))
    }

    /// For the trace: what it holds.
    pub(crate) fn digest(&self) -> (u32, u64) {
        let inner = self.inner();
        (crc32fast::hash(&inner.now), inner.syncs)
    }
}

/// Time of a commit on a good disk.
pub(crate) const FAST: (u64, u64) = (100, 3_000);
/// And on a bad one.
pub(crate) const SLOW: (u64, u64) = (20_000, 900_000);

impl Inner {
    /// Each unsynced sector gets the version that is chosen: 0 is the one on disk.
    fn lose(&mut self, mut choose: impl FnMut(usize) -> usize) {
        let dirty = std::mem::take(&mut self.dirty);
        let end = if choose(1) == 0 { self.durable.len() } else { self.now.len() };
        let mut content = std::mem::take(&mut self.durable);
        content.resize(end, 0);
        for (sector, versions) in dirty {
            let from = sector * SECTOR;
            let chosen = choose(versions.len());
            let (Some(version), true) = (chosen.checked_sub(1), from < end) else { continue };
            let to = end.min(from + SECTOR);
            content[from..to].copy_from_slice(&versions[version][..to - from]);
        }
        self.now = content.clone();
        self.durable = content;
    }

    fn sync(&mut self) {
        self.durable.resize(self.now.len(), 0);
        for sector in std::mem::take(&mut self.dirty).into_keys() {
            let from = sector * SECTOR;
            let to = self.now.len().min(from + SECTOR);
            if from < to {
                self.durable[from..to].copy_from_slice(&self.now[from..to]);
            }
        }
        // A shorter file that grows again reads zeros.
        self.syncs += 1;
    }

    fn changing(&mut self) -> io::Result<()> {
        match self.fuse.as_mut() {
            Some(0) => {
                self.dead = true;
                Err(gone())
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Handle {
    fn alive(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.disk.inner();
        if inner.start != self.start || inner.dead { Err(gone()) } else { Ok(inner) }
    }

    pub(crate) fn write_witness(&self, bytes: &[u8; 32]) -> io::Result<()> {
        let mut inner = self.alive()?;
        inner.changing()?;
        inner.witness.push(*bytes);
        if inner.witness.len() > WITNESSES {
            inner.witness.remove(0);
        }
        Ok(())
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.alive()?.now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.alive()?;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = inner.now.get(from..from + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.alive()?;
        inner.changing()?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let was = inner.now.len();
        inner.now.resize(len, 0);
        // What comes to light when it grows is zeros, once that is synced.
        for sector in was / SECTOR..len.div_ceil(SECTOR) {
            inner.touch(sector);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.alive()?;
        inner.changing()?;
        if inner.fail_sync {
            inner.dead = true;
            return Err(io::Error::other("the disk says that it could not sync"));
        }
        inner.sync();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.alive()?;
        inner.changing()?;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let to = from + data.len();
        if to > inner.now.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        inner.now[from..to].copy_from_slice(data);
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            inner.touch(sector);
        }
        Ok(())
    }
}

impl Inner {
    /// This sector has a new version that is not synced.
    fn touch(&mut self, sector: usize) {
        let (from, to) = (sector * SECTOR, self.now.len().min((sector + 1) * SECTOR));
        if from >= to {
            return;
        }
        let mut version = [0; SECTOR];
        version[..to - from].copy_from_slice(&self.now[from..to]);
        let versions = self.dirty.entry(sector).or_default();
        // Few are enough to be torn in every way, and a hot sector has many.
        if versions.len() > 3 {
            versions.remove(0);
        }
        versions.push(version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_synced_is_sure_to_stay() {
        let rng = Rng::from_seed(1);
        let disk = Disk::new();
        let handle = disk.open();
        handle.set_len(1_024).expect("room");
        handle.write(0, &[1; 1_024]).expect("written");
        handle.sync_data().expect("synced");
        handle.write(100, &[2; 600]).expect("written");
        let read = |handle: &Handle| {
            let mut bytes = [0; 1_024];
            handle.read(0, &mut bytes).map(|()| bytes)
        };
        assert_eq!(read(&handle).expect("alive")[699], 2);
        disk.die(Death::Kill, &rng);
        assert!(read(&handle).is_err(), "a dead server reads nothing");
        let handle = disk.open();
        assert_eq!(read(&handle).expect("alive")[699], 2);
        disk.die(Death::LoseAll, &rng);
        let handle = disk.open();
        assert_eq!(read(&handle).expect("alive"), [1; 1_024]);

        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let handle = disk.open();
            handle.write(0, &[1; 1_024]).expect("written");
            handle.sync_data().expect("synced");
            handle.write(0, &[3; 1_024]).expect("written");
            disk.die(Death::Tear, &rng);
            let bytes = read(&disk.open()).expect("alive");
            seen.insert((bytes[0], bytes[511], bytes[512], bytes[1_023]));
        }
        let torn = [(1, 1, 1, 1), (1, 1, 3, 3), (3, 3, 1, 1), (3, 3, 3, 3)];
        assert_eq!(seen, torn.into());
    }

    #[test]
    fn a_fuse_and_a_failing_sync_end_it() {
        let rng = Rng::from_seed(1);
        let disk = Disk::new();
        let handle = disk.open();
        handle.set_len(512).expect("room");
        disk.light_fuse(1);
        handle.write(0, &[1]).expect("one more");
        assert!(handle.write(0, &[2]).is_err());
        assert!(handle.sync_data().is_err());
        disk.die(Death::LoseAll, &rng);
        let handle = disk.open();
        assert_eq!(handle.len().expect("alive"), 0);
        handle.set_len(512).expect("room");
        disk.fail_next_sync();
        assert!(handle.sync_data().is_err());
        assert!(handle.len().is_err(), "never used again");
    }
}
