//! A core for each thread of a CPU driver. Lavapipe wakes its threads for every dispatch and Linux often puts two of them on one
//! core, where the second waits for the first's time to be over: for a thread that waits for the other that is milliseconds.

#[cfg(target_os = "linux")]
pub use linux::spread;

/// Elsewhere threads cannot be told where to run.
#[cfg(not(target_os = "linux"))]
pub fn spread<E>(_: u32, busy: impl FnOnce() -> Result<(), E>) -> Result<bool, E> {
    busy().map(|()| false)
}

#[cfg(target_os = "linux")]
mod linux {
    use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};
    use std::collections::BTreeMap;
    use std::time::Instant;

    /// Gives the `threads` threads of this process that do what `busy` hands to the device a core each. Says whether it did:
    /// not where they are in another process, or are not as many as the cores that this one may use.
    pub fn spread<E>(threads: u32, busy: impl FnOnce() -> Result<(), E>) -> Result<bool, E> {
        let (before, start) = (run_ns(), Instant::now());
        busy()?;
        // A thread that shared its core with all the others still had its part of the time.
        let least_ns = start.elapsed().as_nanos() as u64 / u64::from(4 * threads.max(1));
        let own = gettid().as_raw_nonzero().get();
        let worked = |(thread, ns): (&i32, &u64)| {
            let gained_ns = ns.saturating_sub(before.get(thread).copied().unwrap_or(0));
            (*thread != own && gained_ns >= least_ns).then(|| Pid::from_raw(*thread)).flatten()
        };
        let workers: Vec<Pid> = run_ns().iter().filter_map(worked).collect();
        let cores = cores();
        if workers.len() != threads as usize || cores.len() != workers.len() {
            tracing::debug!(threads, workers = workers.len(), cores = cores.len(), "threads stay where they are put");
            return Ok(false);
        }
        let pin = |(thread, core): (&Pid, &usize)| {
            let mut set = CpuSet::new();
            set.set(*core);
            sched_setaffinity(Some(*thread), &set).is_ok()
        };
        Ok(workers.iter().zip(&cores).all(pin))
    }

    /// The cores that this process may use.
    fn cores() -> Vec<usize> {
        let set = sched_getaffinity(None).unwrap_or_default();
        (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
    }

    /// Nanoseconds that each thread has run (`/proc/self/task/*/schedstat`, proc(5)).
    fn run_ns() -> BTreeMap<i32, u64> {
        let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let ran = |path: std::path::PathBuf| -> Option<(i32, u64)> {
            let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
            Some((path.file_name()?.to_str()?.parse().ok()?, text.split(' ').next()?.parse().ok()?))
        };
        tasks.filter_map(|task| ran(task.path())).collect()
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::sync::mpsc::channel;

        #[test]
        fn threads_that_work_get_a_core_each() {
            let all = cores();
            let (stop, ended) = (std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)), channel());
            let workers: Vec<_> = all
                .iter()
                .map(|_| {
                    let (stop, ended) = (stop.clone(), ended.0.clone());
                    std::thread::spawn(move || {
                        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                            std::hint::spin_loop();
                        }
                        ended.send(cores()).expect("the test listens");
                    })
                })
                .collect();
            let busy = || {
                std::thread::sleep(std::time::Duration::from_millis(100));
                Ok::<(), ()>(())
            };
            let spread = spread(all.len() as u32, busy).expect("nothing fails");
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            let mut got: Vec<_> = workers.iter().map(|_| ended.1.recv().expect("each says")).collect();
            got.sort();
            workers.into_iter().for_each(|worker| worker.join().expect("it ends"));
            // Other tests may have worked meanwhile; then none is touched.
            let expected =
                if spread { all.iter().map(|core| vec![*core]).collect() } else { vec![all.clone(); all.len()] };
            assert_eq!(got, expected);
        }

        #[test]
        fn nobody_is_touched_where_nobody_works() {
            assert_eq!(spread(64, || Ok::<(), ()>(())), Ok(false));
        }
    }
}
