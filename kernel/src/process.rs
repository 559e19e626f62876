//! Programs that this one calls, becomes or ends with.

use std::process::{Command, ExitCode, Stdio};
#[cfg(unix)]
use std::time::Duration;

use crate::Result;

/// What a program prints, if all goes well.
pub fn stdout_of(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// What a compiler says of itself, in what `rustc -vV` prints.
pub fn said<'a>(version: &'a str, what: &str) -> Option<&'a str> {
    version.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(": "))
}

/// This process becomes the command, where the system can do that.
pub fn become_command(mut command: Command) -> Result<ExitCode> {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        Err(command.exec().into())
    }
    #[cfg(not(unix))]
    {
        let code = command.status()?.code().unwrap_or(1);
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }
}

/// Waits until whoever started this kernel is gone, if it told who it is.
pub async fn parent_exit() {
    #[cfg(unix)]
    if std::env::var_os("JPY_PARENT_PID").is_some() {
        // SAFETY: getppid cannot fail.
        let parent = unsafe { libc::getppid() };
        while unsafe { libc::getppid() } == parent {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        return;
    }
    std::future::pending().await
}
