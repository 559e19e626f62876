//! Files that are read where they lie, for as long as a model lives: what becomes of them meanwhile ends in an error.
//!
//! What is written to such a file changes the weights, and what is cut off is not there any more when it is read: the system then
//! sends SIGBUS, which would end the process. A handler puts a page of zeros in its place and notes that it did; whoever has read asks
//! [`check`](Mapping::check) before the outcome counts. A file that another has taken the place of, under its name, stays as it was
//! for those who have it open. Where there are no such signals, a file that is mapped cannot be cut.

use std::fs::{File, Metadata};
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, ErrorKind, Result};

/// The bytes of a file.
pub(crate) struct Mapping {
    path: String,
    file: File,
    opened: Metadata,
    watched: Option<guard::Watched>,
    map: Mmap,
}

impl Mapping {
    /// Maps a file; `help` says what such a file is for.
    pub(crate) fn open(path: &Path, help: &str) -> Result<Mapping> {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::File, format!("cannot read {}", path.display())).caused_by(error).help(help)
        };
        // Asked before it is opened: a pipe would be waited for.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(Error::new(ErrorKind::File, format!("{} is not a file", path.display())).help(help));
        }
        let file = File::open(path).map_err(failed)?;
        let opened = file.metadata().map_err(failed)?;
        // SAFETY: the map is only read, and what it is read as can be any bytes. That these change while they are borrowed cannot be
        // ruled out: it is looked for before what was made of them counts.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        let watched = guard::watch(&map);
        Ok(Mapping { path: path.display().to_string(), file, opened, watched, map })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Fails if the file is no longer as it was when it was opened.
    pub(crate) fn check(&self) -> Result<()> {
        let changed = |what: String| {
            Error::new(ErrorKind::File, format!("{} {what} after it was opened", self.path))
                .help("weights are read from their file while a model lives: leave it as it is, and open the model again")
        };
        if self.watched.as_ref().is_some_and(guard::Watched::was_hit) {
            return Err(changed("was cut short, and read,".into()));
        }
        let Ok(now) = self.file.metadata() else { return Ok(()) };
        if now.len() != self.opened.len() {
            return Err(changed(format!("went from {} bytes to {}", self.opened.len(), now.len())));
        }
        match (now.modified(), self.opened.modified()) {
            (Ok(now), Ok(then)) if now != then => Err(changed("was written to".into())),
            _ => Ok(()),
        }
    }
}

/// A file of weights, which lives as long as any weight of it; or what is part of the program.
pub(crate) enum WeightFile {
    Mapped(Box<Mapping>),
    Static(String, &'static [u8]),
}

impl From<Mapping> for WeightFile {
    fn from(map: Mapping) -> WeightFile {
        WeightFile::Mapped(map.into())
    }
}

impl WeightFile {
    pub(crate) fn part_of_program(name: &str, bytes: &'static [u8]) -> WeightFile {
        WeightFile::Static(name.into(), bytes)
    }

    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self, WeightFile::Mapped(_))
    }

    pub(crate) fn path(&self) -> &str {
        match self {
            WeightFile::Mapped(map) => &map.path,
            WeightFile::Static(name, _) => name,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            WeightFile::Mapped(map) => map.bytes(),
            WeightFile::Static(_, bytes) => bytes,
        }
    }

    /// Fails if the file is no longer as it was when it was opened.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            WeightFile::Mapped(map) => map.check(),
            WeightFile::Static(..) => Ok(()),
        }
    }

    /// The error of a weight in it that holds NaN or infinity.
    pub(crate) fn not_finite(&self, weight: &str, value: f32, at: usize) -> Error {
        let what = format!("weight `{weight}` of {} is {value} at entry {at}", self.path());
        Error::new(ErrorKind::Weights, what)
            .help("the file is damaged, or the training that made it diverged")
    }

    /// A file of these bytes, which is gone when nobody reads it any more.
    #[cfg(test)]
    pub(crate) fn of_bytes(bytes: &[u8]) -> Result<std::sync::Arc<WeightFile>> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("room for it");
        Ok(std::sync::Arc::new(Mapping::open(file.path(), "of a test")?.into()))
    }
}

#[cfg(unix)]
mod guard {
    //! The handler of SIGBUS.

    use std::mem::MaybeUninit;
    use std::sync::Once;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

    use libc::{c_int, c_void, siginfo_t};

    /// As many files as are watched at once; a model of more has the rest read unwatched.
    const SLOTS: usize = 256;

    /// Addresses that are mapped from a file.
    struct Slot {
        taken: AtomicBool,
        start: AtomicUsize,
        end: AtomicUsize,
        hit: AtomicBool,
    }

    static WATCHED: [Slot; SLOTS] = [const {
        Slot {
            taken: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            hit: AtomicBool::new(false),
        }
    }; SLOTS];

    /// What was there before: an address of a function, or one of the numbers that stand for what the system does.
    static BEFORE: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);
    static BEFORE_TAKES_INFO: AtomicBool = AtomicBool::new(false);
    static PAGE: AtomicUsize = AtomicUsize::new(4096);

    pub(super) struct Watched(usize);

    impl Watched {
        pub(super) fn was_hit(&self) -> bool {
            WATCHED[self.0].hit.load(SeqCst)
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            let slot = &WATCHED[self.0];
            slot.end.store(0, SeqCst);
            slot.start.store(0, SeqCst);
            slot.taken.store(false, SeqCst);
        }
    }

    /// Has the handler look after these bytes.
    pub(super) fn watch(bytes: &[u8]) -> Option<Watched> {
        static ONCE: Once = Once::new();
        ONCE.call_once(install);
        let free = |slot: &Slot| slot.taken.compare_exchange(false, true, SeqCst, SeqCst).is_ok();
        let index = WATCHED.iter().position(free)?;
        let range = bytes.as_ptr_range();
        WATCHED[index].hit.store(false, SeqCst);
        WATCHED[index].start.store(range.start as usize, SeqCst);
        WATCHED[index].end.store(range.end as usize, SeqCst);
        Some(Watched(index))
    }

    fn install() {
        // SAFETY: it only answers.
        if let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) {
            PAGE.store(page, SeqCst);
        }
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: the structure is one of numbers, for which zeros mean nothing set; the handler does only what handlers may.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            if libc::sigaction(libc::SIGBUS, &action, before.as_mut_ptr()) == 0 {
                let before = before.assume_init();
                BEFORE.store(before.sa_sigaction, SeqCst);
                BEFORE_TAKES_INFO.store(before.sa_flags & libc::SA_SIGINFO != 0, SeqCst);
            }
        }
    }

    /// Puts zeros where a file is no more. A signal of anything else goes to whoever had it before.
    extern "C" fn on_sigbus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
        // SAFETY: the system says where it happened.
        let address = unsafe { (*info).si_addr() } as usize;
        let is_within = |slot: &&Slot| (slot.start.load(SeqCst)..slot.end.load(SeqCst)).contains(&address);
        if let Some(slot) = WATCHED.iter().find(is_within) {
            let page = PAGE.load(SeqCst);
            let start = (address / page * page) as *mut c_void;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            // SAFETY: a page of a map that is ours to read, and that has nothing any more.
            let placed = unsafe { libc::mmap(start, page, libc::PROT_READ, flags, -1, 0) };
            if placed == start {
                slot.hit.store(true, SeqCst);
                return;
            }
        }
        match BEFORE.load(SeqCst) {
            // SAFETY: what the system is to do is done when the instruction is tried again.
            libc::SIG_DFL | libc::SIG_IGN => unsafe {
                libc::signal(signal, libc::SIG_DFL);
            },
            handler if BEFORE_TAKES_INFO.load(SeqCst) => {
                // SAFETY: the handler that was there, called as it asked to be.
                let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                    unsafe { std::mem::transmute(handler) };
                handler(signal, info, context);
            }
            handler => {
                // SAFETY: as above.
                let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
                handler(signal);
            }
        }
    }
}

#[cfg(not(unix))]
mod guard {
    /// Nothing is to be watched where mapped files cannot be cut.
    pub(super) struct Watched;

    impl Watched {
        pub(super) fn was_hit(&self) -> bool {
            false
        }
    }

    pub(super) fn watch(_: &[u8]) -> Option<Watched> {
        None
    }
}
