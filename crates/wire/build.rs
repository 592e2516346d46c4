//! Compiles the mesh's protocol without a protoc binary.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["isthmus/mesh/v1/mesh.proto"], ["proto"])?;
    // Ordered maps: the same value always has the same bytes, and so the same version.
    let mut config = tonic_prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]);
    // Few frames have one, and it is large.
    config.boxed(".isthmus.mesh.v1.AuthorityFrame.message");
    config.boxed(".isthmus.mesh.v1.PeerHello.reset");
    tonic_prost_build::configure().compile_fds_with_config(files, config)?;
    Ok(())
}
