//! What every cell of a session links to: headlight, and what the process that runs the cells needs of it.

use std::io::Write;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use headlight::*;

static READY: Once = Once::new();
static RUNNING: AtomicBool = AtomicBool::new(false);

/// Called before each cell.
#[unsafe(no_mangle)]
pub extern "C" fn headlight_session_begin() {
    READY.call_once(|| {
        if let Ok(token) = std::env::var("HEADLIGHT_KERNEL") {
            std::panic::set_hook(Box::new(move |panic| report_panic(&token, panic)));
        }
        std::thread::spawn(flush_regularly);
    });
    headlight::clear_stop();
    RUNNING.store(true, Ordering::Relaxed);
}

/// Called after each cell.
#[unsafe(no_mangle)]
pub extern "C" fn headlight_session_end() {
    RUNNING.store(false, Ordering::Relaxed);
    flush();
}

/// Called by the handler of the interrupt: nothing here but an atomic store.
#[unsafe(no_mangle)]
pub extern "C" fn headlight_session_stop() {
    headlight::request_stop();
}

// `print!` without a newline waits in the buffer of the standard output.
fn flush_regularly() {
    loop {
        std::thread::sleep(Duration::from_millis(40));
        if RUNNING.load(Ordering::Relaxed) {
            flush();
        }
    }
}

fn flush() {
    let _ = std::io::stdout().flush();
}

/// Called where `?` returns an error early from a cell.
#[track_caller]
pub fn headlight_early_return<E>(_: &E, message: &str) {
    let Ok(token) = std::env::var("HEADLIGHT_KERNEL") else { return };
    let at = std::panic::Location::caller();
    let fields = serde_json::json!({
        "op": "early_return",
        "message": message,
        "error": std::any::type_name::<E>(),
        "file": at.file(),
        "line": at.line(),
        "column": at.column(),
    });
    write_message(&token, &fields);
}

/// Called where a cell has caught its own panic.
pub fn headlight_panicked() {
    if let Ok(token) = std::env::var("HEADLIGHT_KERNEL") {
        write_message(&token, &serde_json::json!({"op": "panicked"}));
    }
}

fn report_panic(token: &str, panic: &std::panic::PanicHookInfo) {
    let payload = panic.payload();
    let message = payload
        .downcast_ref::<&str>()
        .map(|text| text.to_string())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is no text".to_string());
    let thread = std::thread::current();
    let at = panic.location();
    let fields = serde_json::json!({
        "op": "panic",
        "message": message,
        "thread": thread.name().unwrap_or("unnamed"),
        "file": at.map(|at| at.file()),
        "line": at.map(|at| at.line()),
        "column": at.map(|at| at.column()),
    });
    write_message(token, &fields);
}

/// One marked line on the standard output.
fn write_message(token: &str, message: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("\u{1}{token} {message}\n").as_bytes()).and_then(|()| out.flush());
}

/// Keeps the variables of cells from one to the next. Each cell would bring its own copy of this and compile it; here it
/// is compiled once. The names are those that cells use.
pub mod variables {
    use std::any::Any;
    use std::collections::HashMap;
    use std::sync::Arc;

    #[derive(Default)]
    pub struct VariableStore {
        by_name: HashMap<String, Box<dyn Any>>,
    }

    impl VariableStore {
        pub fn put_variable<T: 'static>(&mut self, name: &str, value: T) {
            self.put(name, Box::new(value));
        }

        pub fn check_variable<T: 'static>(&self, name: &str) -> bool {
            self.get(name).is_none_or(|value| value.is::<T>() || report_lost(name))
        }

        pub fn take_variable<T: 'static>(&mut self, name: &str) -> T {
            match self.take(name).downcast() {
                Ok(value) => *value,
                Err(_) => panic!("the variable {name} has another type than before"),
            }
        }

        pub fn lazy_arc<T: 'static, F: FnOnce() -> T>(&mut self, name: &str, create: F) -> Arc<T> {
            let entry = self.by_name.entry(name.to_string()).or_insert_with(|| Box::new(Arc::new(create())));
            match entry.downcast_ref() {
                Some(shared) => Arc::clone(shared),
                None => panic!("{name} has another type than before"),
            }
        }

        pub fn merge(&mut self, other: VariableStore) {
            self.by_name.extend(other.by_name);
        }

        fn put(&mut self, name: &str, value: Box<dyn Any>) {
            self.by_name.insert(name.to_string(), value);
        }

        fn get(&self, name: &str) -> Option<&dyn Any> {
            self.by_name.get(name).map(|value| &**value)
        }

        fn take(&mut self, name: &str) -> Box<dyn Any> {
            self.by_name.remove(name).unwrap_or_else(|| panic!("the variable {name} has gone missing"))
        }
    }

    fn report_lost(name: &str) -> bool {
        eprintln!("The type of the variable {name} was redefined, so its value is lost.");
        if let Ok(token) = std::env::var("HEADLIGHT_KERNEL") {
            super::write_message(&token, &serde_json::json!({"op": "changed", "name": name}));
        }
        false
    }

    pub fn create_variable_store() -> *mut VariableStore {
        Box::into_raw(Box::default())
    }
}
