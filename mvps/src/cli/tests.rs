//! The command line is a contract: what parses, to what, and under which environment names.

use std::ffi::OsString;

use clap::CommandFactory as _;
use mvps_core::engine::MemoryShares;
use mvps_core::env::Address;

use super::*;
use crate::quantity::{ByteSize, Compression};

fn parse_line(line: &str) -> Result<Cli, clap::Error> {
    parse(line.split_whitespace().map(OsString::from))
}

fn serve_args(line: &str) -> ServeArgs {
    match parse_line(line).expect(line).command {
        Command::Serve(args) => *args,
        other => panic!("{line}: parsed as {other:?}"),
    }
}

#[test]
fn serve_is_the_default() {
    for line in ["mvps", "mvps serve"] {
        let args = serve_args(line);
        assert_eq!(args.listen, [Address::Tcp("127.0.0.1:10809".to_owned())]);
        assert_eq!(args.object_store.image_store, None);
        assert_eq!(args.tuning.checkpoint_interval_ms, 60_000);
        assert_eq!(args.tuning.checkpoint_bytes, ByteSize(256 << 20));
        assert_eq!(args.tuning.buffer_limit_bytes, ByteSize(8 << 30));
        assert_eq!(args.tuning.cache_bytes, None);
        assert_eq!(args.tuning.compression, Compression(Some(1)));
        assert_eq!(args.tuning.durability, DurabilityArg::Local);
        assert_eq!(args.log.log_format, LogFormat::Human);
    }
}

#[test]
fn a_buffer_that_its_own_journals_would_fill_is_refused() {
    let parsed = |size: &str| parse_line(&format!("mvps --buffer-limit-bytes {size}")).is_ok();
    assert!(!parsed("255MiB"));
    assert!(parsed("256MiB"));
}

#[test]
fn the_memory_is_shared_out_around_the_cache() {
    let memory = |line: &str| serve_args(line).settings().map(|it| it.engine.memory);
    let default = memory("mvps").expect("it is the default");
    assert_eq!(default, MemoryShares::default());
    let limited = memory("mvps --memory-limit 256MiB").expect("the least");
    assert_eq!(limited.cache_bytes, 48 << 20);
    let cached = memory("mvps --cache-bytes 4GiB").expect("the others keep their own");
    assert_eq!(
        (cached.cache_bytes, cached.write_bytes),
        (4 << 30, default.write_bytes)
    );
    let both = memory("mvps --memory-limit 2GiB --cache-bytes 1216MiB").expect("the rest");
    assert_eq!(both.index_bytes, default.index_bytes);
    let refused = memory("mvps --memory-limit 1GiB --cache-bytes 1GiB");
    let refused = refused.expect_err("nothing is left").to_string();
    assert!(refused.contains("raise the limit"), "{refused}");
    parse_line("mvps --memory-limit 255MiB").expect_err("too little");
    assert!(memory("mvps --memory-limit 18446744073709551615 --cache-bytes 0").is_ok());
}

#[test]
fn the_disk_cache_is_in_the_buffer_store_path_unless_it_is_said_otherwise() {
    let settings = |line: &str| serve_args(line).settings().expect(line).disk_cache;
    let default = settings("mvps --buffer-store-path /b");
    assert_eq!(default.path, std::path::Path::new("/b/cache"));
    assert_eq!(default.limit_bytes, None);
    let given = settings("mvps --cache-path /c --disk-cache-bytes 1GiB");
    assert_eq!(given.path, std::path::Path::new("/c"));
    assert_eq!(given.limit_bytes, Some(1 << 30));
    assert_eq!(settings("mvps --disk-cache-bytes 0").limit_bytes, Some(0));
    let few = parse_line("mvps --disk-cache-bytes 255MiB");
    few.expect_err("fewer slabs than make sense");
}

#[test]
fn the_original_command_line_works() {
    let args = serve_args(
        "mvps --listen 0.0.0.0:10809 --listen unix:/run/mvps.sock --image-store s3 \
         --image-store-s3-bucket b --image-store-s3-prefix p/ --buffer-store-path /var/lib/mvps \
         --checkpoint-interval-ms 5000 --buffer-limit-bytes 1GiB --durability object-store \
         --log-format json --unsafe-no-fencing",
    );
    let unix = Address::Unix("/run/mvps.sock".into());
    assert_eq!(
        args.listen,
        [Address::Tcp("0.0.0.0:10809".to_owned()), unix]
    );
    assert_eq!(args.object_store.image_store, Some(ObjectStoreKind::S3));
    assert_eq!(
        args.object_store.image_store_s3_bucket.as_deref(),
        Some("b")
    );
    assert_eq!(
        args.object_store.image_store_s3_prefix.as_deref(),
        Some("p/")
    );
    assert_eq!(
        args.buffer.buffer_store_path,
        std::path::Path::new("/var/lib/mvps")
    );
    assert_eq!(args.tuning.checkpoint_interval_ms, 5000);
    assert_eq!(args.tuning.buffer_limit_bytes, ByteSize(1 << 30));
    assert_eq!(args.tuning.durability, DurabilityArg::ObjectStore);
    assert_eq!(args.log.log_format, LogFormat::Json);
    assert!(args.object_store.unsafe_no_fencing);
}

#[test]
fn every_subcommand_parses() {
    for line in [
        "mvps token --image disk0 --size 10GiB",
        "mvps token --image disk0 --client-id a --read-only --snapshot s --expires 12h",
        "mvps token --image disk0 --version 7 --durability object-store --page-size 16KiB",
        "mvps image list --image-store local --image-store-local-path /d --output json",
        "mvps image show disk0",
        "mvps image takeover disk0 --image-store s3 --image-store-s3-bucket b",
        "mvps image adopt disk0 --buffer-store-path /b",
        "mvps image rekey disk0 --output json",
        "mvps image clone disk0@monday copy --output json",
        "mvps image clone disk0 copy --version 7",
        "mvps image rollback disk0@monday --discard-unpublished",
        "mvps image rollback disk0 --version 7",
        "mvps image resize disk0 20GiB",
        "mvps image delete disk0 --force",
        "mvps image versions disk0 --limit 5",
        "mvps image pins disk0 --release me:version:7",
        "mvps snapshot create disk0@monday --version 7",
        "mvps snapshot list disk0",
        "mvps snapshot delete disk0@monday --force",
        "mvps check disk0",
        "mvps check --all --read-data --output json --image-store-local-path /d",
        "mvps status --output json --buffer-store-path /b",
        "mvps checkpoint disk0 --buffer-store-path /b",
        "mvps txn --image disk0",
        "mvps txn --token t --connect unix:/s --durable list.txt",
    ] {
        parse_line(line).expect(line);
    }
}

#[test]
fn what_is_wrong_is_refused() {
    for line in [
        "mvps sevre",
        "mvps --listen nowhere",
        "mvps --image-store ftp",
        "mvps --checkpoint-interval-ms 0",
        "mvps --cache-bytes lots",
        "mvps token",
        "mvps token --image -disk",
        "mvps token --image disk0 --snapshot s --version 1",
        "mvps image show no/slash",
        "mvps image rollback disk0@no/slash",
        "mvps snapshot create",
        "mvps checkpoint",
        "mvps check",
        "mvps check disk0 --all",
        "mvps txn",
        "mvps txn --image disk0 --token t",
    ] {
        parse_line(line).expect_err(line);
    }
}

#[test]
fn every_flag_has_its_environment_variable() {
    fn check(command: &clap::Command, flags: &mut usize) {
        for argument in command
            .get_arguments()
            .filter(|argument| !argument.is_positional())
        {
            let long = argument.get_long().expect("every flag has a long name");
            if matches!(long, "help" | "version") && argument.get_env().is_none() {
                continue;
            }
            let expected = format!("MVPS_TE_{}", long.replace('-', "_").to_uppercase());
            let actual = argument
                .get_env()
                .map(|name| name.to_string_lossy().into_owned());
            assert_eq!(actual, Some(expected), "--{long} of {}", command.get_name());
            *flags += 1;
        }
        command
            .get_subcommands()
            .for_each(|inner| check(inner, flags));
    }
    let mut flags = 0;
    check(&Cli::command(), &mut flags);
    assert!(flags > 30, "only {flags} flags were looked at");
}

#[test]
fn clap_finds_no_contradiction() {
    Cli::command().debug_assert();
}
