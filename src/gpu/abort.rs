//! What a process can still do when a driver aborts it. Mesa's Venus calls `abort`, without a word, when the far side no
//! longer answers: the virtual machine's GPU process has died, or its ring hangs. The driver's state is lost with it, so the
//! only way on is a new process image.

/// Set for a process that has been started again, so that it happens once.
const MARK: &str = "HESPER_STARTED_AGAIN";

#[cfg(unix)]
mod unix {
    use super::MARK;
    use std::ffi::{CString, OsString, c_char, c_int};
    use std::os::unix::ffi::OsStringExt;
    use std::sync::OnceLock;

    const FIRST: &[u8] =
        b"error: the process was aborted, as Vulkan drivers do when the device no longer answers (behind \
        Venus: its host's side is gone); starting again, once\n";
    const SECOND: &[u8] = b"error: the process was aborted again, as Vulkan drivers do when the device no longer answers \
        (behind Venus: its host's side is gone). Restart the virtual machine or the driver's host; `hesper doctor` examines \
        them.\n";

    /// Everything that `execve` needs, made beforehand: a signal handler may not allocate.
    struct Again {
        program: CString,
        _strings: Vec<CString>,
        arguments: Vec<*const c_char>,
        variables: Vec<*const c_char>,
    }

    // SAFETY: the pointers are into `_strings`, which nothing changes.
    unsafe impl Send for Again {}
    unsafe impl Sync for Again {}

    static AGAIN: OnceLock<Option<Again>> = OnceLock::new();

    impl Again {
        /// `None` for a process that was started again already, or whose program cannot be named.
        fn prepare() -> Option<Again> {
            if std::env::var_os(MARK).is_some() {
                return None;
            }
            let string = |text: OsString| CString::new(text.into_vec()).ok();
            let program = string(std::env::current_exe().ok()?.into_os_string())?;
            let variable = |(name, value): (OsString, OsString)| {
                let mut text = name;
                text.push("=");
                text.push(value);
                string(text)
            };
            let arguments: Vec<CString> = std::env::args_os().map(string).collect::<Option<_>>()?;
            let marked = std::env::vars_os().chain([(MARK.into(), "1".into())]);
            let variables: Vec<CString> = marked.map(variable).collect::<Option<_>>()?;
            let pointers = |strings: &[CString]| {
                strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
            };
            Some(Again {
                program,
                arguments: pointers(&arguments),
                variables: pointers(&variables),
                _strings: arguments.into_iter().chain(variables).collect(),
            })
        }
    }

    extern "C" fn aborted(_: c_int) {
        let again = AGAIN.get().and_then(Option::as_ref);
        let text = if again.is_some() { FIRST } else { SECOND };
        // SAFETY: `write`, `sigprocmask`, `execve` and `raise` may be called in signal handlers; the pointers are
        // terminated lists of terminated strings that live as long as the process.
        unsafe {
            libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
            if let Some(again) = again {
                // `abort` may have blocked signals, and the new image would keep that.
                let mut none: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&raw mut none);
                libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
                libc::execve(again.program.as_ptr(), again.arguments.as_ptr(), again.variables.as_ptr());
            }
            // Whoever sent the signal, it ends the process: the handler is reset, so this one is final.
            libc::raise(libc::SIGABRT);
        }
    }

    pub fn start_again_on_abort() {
        AGAIN.get_or_init(Again::prepare);
        // SAFETY: the structure is valid when zero, and the handler calls nothing that handlers may not.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = aborted as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_RESETHAND;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGABRT, &raw const action, std::ptr::null_mut());
        }
    }
}

/// From now on an abort starts the program again, with its arguments and environment, and the second one ends it; both say
/// so on the standard error output.
pub fn start_again_on_abort() {
    #[cfg(unix)]
    unix::start_again_on_abort();
    #[cfg(not(unix))]
    let _ = MARK;
}
