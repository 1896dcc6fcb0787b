//! Writes include/fullduplex.h from src/ffi, and tells the linker the library's name.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=src/ffi");
    println!("cargo:rerun-if-changed=cbindgen.toml");
    println!("cargo:rerun-if-changed=include/fullduplex.h");
    name_the_library();
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    // Only in a checkout of the project: a packaged crate must not write into its sources.
    if Path::new(&root).join(".git").exists() {
        write_header(Path::new(&root));
    }
}

fn name_the_library() {
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libfullduplex.so.0");
        // Thread-local destructors pin the library anyway; unloading it under a thread of ours
        // would end the host.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}

fn write_header(root: &Path) {
    let mut generated = Vec::new();
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml can be read");
    // Only the fence, in the order of the header: the layers below have nothing for C.
    let sources = FFI_FILES.iter().map(|name| root.join("src/ffi").join(name));
    let builder = cbindgen::Builder::new().with_config(config);
    match sources.fold(builder, |builder, source| builder.with_src(source)).generate() {
        Ok(bindings) => bindings.write(&mut generated),
        // The compiler says it better.
        Err(error) => return println!("cargo:warning=the header was not generated: {error}"),
    };
    let generated = String::from_utf8(generated).expect("cbindgen writes UTF-8");
    let header: String = generated.lines().map(|line| format!("{}\n", c_line(line))).collect();
    let path = root.join("include/fullduplex.h");
    if fs::read_to_string(&path).is_ok_and(|current| current == header) {
        return;
    }
    let written = fs::create_dir_all(root.join("include")).and_then(|()| fs::write(&path, header));
    if let Err(error) = written {
        println!("cargo:warning=include/fullduplex.h was not written: {error}");
    }
}

/// What a C reader expects where Rust says it differently.
fn c_line(line: &str) -> String {
    if line.trim() == "// # Safety" {
        return line.replace("# Safety", "Required:");
    }
    if !line.starts_with("typedef struct") && line.contains("struct fdx_") {
        return line.replace("struct fdx_", "fdx_");
    }
    let Some((name, value)) = line.strip_prefix("#define FDX_").and_then(|rest| rest.split_once(' ')) else {
        return line.to_string();
    };
    let is_status = name.starts_with("E_") || matches!(name, "OK" | "HIGH_WATER" | "ALREADY");
    // They are compared with an event's `code`.
    let is_code = name.starts_with("TOPIC_") || name.starts_with("BP_");
    match value {
        "256" if name == "VERSION" => "#define FDX_VERSION 0x000100u".to_string(),
        number if number.starts_with('-') => format!("#define FDX_{name} ({number})"),
        number if number.bytes().all(|byte| byte.is_ascii_digit()) && !is_status && !is_code => {
            format!("#define FDX_{name} {number}u")
        }
        _ => line.to_string(),
    }
}

const FFI_FILES: [&str; 13] = [
    "status.rs",
    "error.rs",
    "event.rs",
    "config.rs",
    "server.rs",
    "queue.rs",
    "handshake.rs",
    "send.rs",
    "conn.rs",
    "topic.rs",
    "backplane.rs",
    "stats.rs",
    "log.rs",
];
