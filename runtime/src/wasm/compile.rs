//! Compiling: the bytes of a component -> machine code, in this process or in a child process with limits.
//!
//! Bytes that were made for it can have the compiler use any amount of memory and time, and a compiler has faults. So
//! the binary never compiles in its own process: it starts itself once more, and that child ([`serve`]) limits itself,
//! reads the component, writes the code and ends. Files in memory carry both, so that no pipe has to be served.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getpriority_process, set_parent_process_death_signal, setpriority_process,
    setrlimit,
};

use super::component::MAX_COMPONENT_BYTES;
use super::engine::code_config;
use super::turns::Turns;
use crate::outcome::bounded;
use crate::text::printable;

/// The verb of the binary that [`serve`] is behind.
pub const VERB: &str = "compile-component";
/// How often the parent looks whether the child has ended: little beside the shortest compilation.
const LOOK: Duration = Duration::from_millis(2);
/// There is one child at a time, whoever asks for it, so that cores and memory are left for events.
static TURNS: Turns = Turns::new();
/// How much the child yields to the threads that handle events: to a twentieth of their share where there is not enough for
/// all. With that a Python component, which takes 14 s of CPU time, is still compiled within the five minutes that a deployment
/// waits, on cores that do nothing but handle events. Measured with two such workers on two cores, both compiling: 5 took 31 %
/// of their events, 10 took 20 %, this takes 16 %.
const NICENESS: i32 = 13;
/// Exit codes of the child; its output is the reason then.
const INVALID: u8 = 3;
const OUT_OF_MEMORY: u8 = 4;
const UNABLE: u8 = 5;
/// What of the child's last words is told, in bytes.
const MAX_WORDS: u64 = 1024;
/// What the standard library says before it aborts a process that cannot have memory, and what the compiler says when it
/// panics for that reason.
const OUT_OF_MEMORY_WORDS: [&str; 2] = ["memory allocation of", "out-of-memory"];

/// What compiling one component may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Bytes of memory, over what the process has when it starts.
    pub memory: u64,
    /// CPU time; parts of a second count as a whole one.
    pub cpu_time: Duration,
    /// Wall-clock time.
    pub wall_time: Duration,
}

/// Where components are compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Compiler {
    /// In this process, without limits: for components that are trusted.
    #[default]
    InProcess,
    /// In a child process.
    Child {
        /// The `wasmill` binary, of this very build.
        program: PathBuf,
        /// What it may use.
        limits: CompileLimits,
    },
}

/// There is no code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// Truncated, damaged or using a feature that is off.
    #[error("the component is not valid: {0}")]
    Invalid(String),
    /// The limit on memory.
    #[error("compiling wants more than {} of memory; {REMEDY}: compile.memory", bytesize::ByteSize(*.0).display().iec())]
    Memory(u64),
    /// The limit on CPU time.
    #[error("compiling takes more than {0:?} of CPU time; {REMEDY}: compile.cpu_time")]
    CpuTime(Duration),
    /// The limit on wall-clock time.
    #[error("compiling takes longer than {0:?}; {REMEDY}, or the machine is overloaded: compile.wall_time")]
    WallTime(Duration),
    /// The compiler itself failed.
    #[error("the compiler ended by {how}: a fault of the compiler that this component brings about{}", said(.words))]
    Died {
        /// The signal or the exit code.
        how: String,
        /// What it said last.
        words: String,
    },
    /// Nobody wants the code any more.
    #[error("compiling was stopped")]
    Stopped,
    /// There is no process to compile in.
    #[error("cannot start the process that compiles: {0}")]
    Start(#[from] io::Error),
    /// The process could not begin.
    #[error("the process that compiles cannot begin: {0}")]
    Unable(String),
}

/// An error of the engine as operators read it. It may name what is in the component: any text, of any length.
pub(super) fn told(error: &wasmtime::Error) -> String {
    bounded(printable(&format!("{error:#}")))
}

const REMEDY: &str = "make the component smaller or, if you trust it, raise the limit";

fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!("; it said: {words}") }
}

impl Compiler {
    /// The code of a component. Blocks the thread: a Python component takes many seconds.
    /// What is compiled in a child waits for the turn of the tenant, and is given up when `stop` becomes true.
    pub(super) fn compile(
        &self,
        engine: &wasmtime::Engine,
        bytes: &[u8],
        tenant: &Arc<str>,
        stop: &AtomicBool,
    ) -> Result<Vec<u8>, CompileError> {
        match self {
            Compiler::InProcess => {
                engine.precompile_component(bytes).map_err(|error| CompileError::Invalid(told(&error)))
            }
            Compiler::Child { program, limits } => {
                let turn = TURNS.wait(tenant, LOOK, || stop.load(Ordering::Relaxed));
                let _turn = turn.ok_or(CompileError::Stopped)?;
                let mut compilation = Compilation::start(program, limits, bytes)?;
                let status = compilation.wait(limits.wall_time, stop)?;
                compilation.result(status, limits)
            }
        }
    }
}

/// A child that compiles. Killed and reaped on drop.
struct Compilation {
    child: Child,
    output: File,
    words: File,
}

impl Compilation {
    fn start(program: &PathBuf, limits: &CompileLimits, bytes: &[u8]) -> io::Result<Compilation> {
        let mut input = memory_file("component")?;
        input.write_all(bytes)?;
        input.seek(SeekFrom::Start(0))?;
        let (output, words) = (memory_file("code")?, memory_file("words")?);
        let child = Command::new(program)
            // The program may be /proc/self/exe, which is no name to be seen in a list of processes.
            .arg0("wasmill")
            .arg(VERB)
            .args(["--memory", &limits.memory.to_string()])
            .args(["--cpu-seconds", &limits.cpu_time.as_secs_f64().ceil().to_string()])
            .args(["--parent", &std::process::id().to_string()])
            .env_clear()
            // The binary's allocator would set aside 1 GiB of address space when it starts, which no limit could count then.
            .env("MIMALLOC_ARENA_RESERVE", "0")
            .current_dir("/")
            .stdin(input)
            .stdout(output.try_clone()?)
            .stderr(words.try_clone()?)
            .spawn()?;
        Ok(Compilation { child, output, words })
    }

    fn wait(&mut self, limit: Duration, stop: &AtomicBool) -> Result<ExitStatus, CompileError> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() >= limit {
                return Err(CompileError::WallTime(limit));
            }
            if stop.load(Ordering::Relaxed) {
                return Err(CompileError::Stopped);
            }
            std::thread::sleep(LOOK);
        }
    }

    fn result(&mut self, status: ExitStatus, limits: &CompileLimits) -> Result<Vec<u8>, CompileError> {
        if status.success() {
            return Ok(read(&mut self.output, limits.memory)?);
        }
        let text = |file: &mut File| read(file, MAX_WORDS).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let (reason, words) = (text(&mut self.output)?, text(&mut self.words)?);
        Err(fault(status, reason, words.trim(), limits))
    }
}

impl Drop for Compilation {
    fn drop(&mut self) {
        // Both fail if it has ended and been waited for, which is just as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the end of the child means.
fn fault(status: ExitStatus, reason: String, words: &str, limits: &CompileLimits) -> CompileError {
    let is = |code: u8| status.code() == Some(code.into());
    let by = |signal: Signal| status.signal() == Some(signal.as_raw());
    if is(INVALID) {
        CompileError::Invalid(printable(&reason))
    } else if is(UNABLE) {
        CompileError::Unable(reason)
    } else if is(OUT_OF_MEMORY) || OUT_OF_MEMORY_WORDS.iter().any(|word| words.contains(word)) {
        CompileError::Memory(limits.memory)
    } else if by(Signal::XCPU) {
        CompileError::CpuTime(limits.cpu_time)
    } else {
        let words = printable(&words.lines().map(str::trim).collect::<Vec<_>>().join(" "));
        CompileError::Died { how: status.to_string(), words }
    }
}

/// A file that is nowhere but in memory, and that children do not inherit unless they are given it.
fn memory_file(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

/// What a child has written, or the beginning of it.
fn read(file: &mut File, most: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(most);
    // The child writes by the same offset.
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The child: limits itself, compiles what is on stdin and writes the code to stdout, or the reason why there is none.
/// `parent` is the process that started it: with its end, this one ends.
pub fn serve(memory: u64, cpu_seconds: u64, parent: u32) -> ExitCode {
    let result = restrain(memory, cpu_seconds, parent).map_err(|error| (UNABLE, error.to_string())).and_then(|()| {
        let mut bytes = Vec::new();
        let read = io::stdin().lock().take(MAX_COMPONENT_BYTES).read_to_end(&mut bytes);
        read.map_err(|error| (UNABLE, error.to_string()))?;
        compile(&bytes)
    });
    let (code, output) = match result {
        Ok(output) => (0, output),
        Err((code, reason)) => (code, reason.into_bytes()),
    };
    match io::stdout().lock().write_all(&output) {
        Ok(()) => ExitCode::from(code),
        Err(_) => ExitCode::from(UNABLE),
    }
}

fn compile(bytes: &[u8]) -> Result<Vec<u8>, (u8, String)> {
    // No pool of instances is needed to compile, and its address space would count.
    let engine = wasmtime::Engine::new(&code_config()).map_err(|error| (UNABLE, format!("{error:#}")))?;
    engine.precompile_component(bytes).map_err(|error| {
        let code = if error.is::<wasmtime::OutOfMemory>() { OUT_OF_MEMORY } else { INVALID };
        (code, told(&error))
    })
}

/// Limits this process. What it is about to read is not trusted.
fn restrain(memory: u64, cpu_seconds: u64, parent: u32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before it was asked for.
    if getppid().map(Pid::as_raw_pid) != i32::try_from(parent).ok() {
        return Err(io::Error::other("the process that asked for it has ended"));
    }
    let limit = |resource, most: u64| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    limit(Resource::Core, 0)?;
    // One second more until it is killed for certain: the signal at the first one says what the matter is.
    setrlimit(Resource::Cpu, Rlimit { current: Some(cpu_seconds), maximum: Some(cpu_seconds.saturating_add(1)) })?;
    limit(Resource::Fsize, memory)?;
    limit(Resource::As, address_space()?.saturating_add(memory))?;
    yield_to_events()?;
    Ok(())
}

/// Has the calling thread, and what it starts, yield to the threads that handle events. One that yields more stays as it is.
pub fn yield_to_events() -> io::Result<()> {
    // Linux knows priorities of threads alone; without a process it is that of the caller.
    if getpriority_process(None)? < NICENESS {
        setpriority_process(None, NICENESS)?;
    }
    Ok(())
}

/// Bytes of address space that this process has.
fn address_space() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let size =
        status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    let kib: u64 = size.ok_or_else(|| io::Error::other("/proc/self/status has no VmSize"))?;
    Ok(kib << 10)
}
