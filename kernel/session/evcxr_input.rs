//! Asks the user for a line: the crate `evcxr_input`, whose own way would read the standard input. That is at its end in a
//! cell, also for the programs that a cell starts; what the user answers comes through a descriptor of its own.

use std::io::{self, BufRead, Read};

/// Requests a string from the user with the specified prompt.
pub fn get_string(prompt: &str) -> String {
    ask(GET_CMD, prompt)
}

/// Requests a string from the user with the specified prompt, treating the input as a password.
pub fn get_password(prompt: &str) -> String {
    ask(GET_CMD_PASSWORD, prompt)
}

#[doc(hidden)]
pub const GET_CMD: &str = "EVCXR_INPUT_REQUEST";
#[doc(hidden)]
pub const GET_CMD_PASSWORD: &str = "EVCXR_INPUT_REQUEST_PASSWORD";

fn ask(command: &str, prompt: &str) -> String {
    println!("{command}:{prompt}");
    answer().unwrap_or_default().trim().to_owned()
}

fn answer() -> io::Result<String> {
    let mut line = Vec::new();
    match answers() {
        // Byte by byte: what follows the line is for the kernel's own part of this process.
        Some(mut answers) => {
            for byte in answers.by_ref().bytes() {
                match byte? {
                    b'\n' => break,
                    byte => line.push(byte),
                }
            }
        }
        None => drop(io::stdin().lock().read_until(b'\n', &mut line)?),
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

#[cfg(unix)]
fn answers() -> Option<std::mem::ManuallyDrop<std::fs::File>> {
    use std::os::fd::FromRawFd;
    let descriptor = std::env::var("HEADLIGHT_ANSWERS").ok()?.parse().ok()?;
    // SAFETY: open as long as this process lives, and not closed here.
    Some(std::mem::ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(descriptor) }))
}

#[cfg(not(unix))]
fn answers() -> Option<io::Empty> {
    None
}
