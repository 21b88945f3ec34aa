//! Makes the messages and the service of `proto/agent.proto`, in Rust alone.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/agent.proto");
    #[cfg(feature = "service")]
    service()?;
    Ok(())
}

#[cfg(feature = "service")]
fn service() -> Result<(), Box<dyn std::error::Error>> {
    use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

    let out = std::path::Path::new(&std::env::var("OUT_DIR")?).join("service");
    std::fs::create_dir_all(&out)?;
    Codegen::new()
        .inputs(["proto/agent.proto"])
        .include("proto")
        .rust_protobuf()
        .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(false))
        .customize(Customize {
            async_all: true,
            ..Default::default()
        })
        .out_dir(&out)
        .run()?;
    std::fs::write(out.join("mod.rs"), "pub mod agent;\npub mod agent_ttrpc;\n")?;
    Ok(())
}
