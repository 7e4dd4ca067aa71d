//! Which object store holds the images: flags that every program of mvps shares.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};

use crate::daemon::ImageStoreChoice;

/// Which object store holds the images.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Object store")]
pub struct ObjectStoreArgs {
    /// Where images live [default: as the other flags say; else ./mvps-data/objects].
    #[arg(long, env = "MVPS_TE_IMAGE_STORE", value_name = "KIND")]
    pub image_store: Option<ObjectStoreKind>,
    /// Bucket. Credentials come from the AWS default chain; S3_ENDPOINT names another endpoint.
    #[arg(long, env = "MVPS_TE_IMAGE_STORE_S3_BUCKET", value_name = "BUCKET")]
    pub image_store_s3_bucket: Option<String>,
    /// Put before every key, for example prod/.
    #[arg(long, env = "MVPS_TE_IMAGE_STORE_S3_PREFIX", value_name = "PREFIX")]
    pub image_store_s3_prefix: Option<String>,
    /// Folder of a local object store.
    #[arg(long, env = "MVPS_TE_IMAGE_STORE_LOCAL_PATH", value_name = "DIR")]
    pub image_store_local_path: Option<PathBuf>,
    /// Accept an object store that ignores If-None-Match. Two writers of one image, servers or
    /// collectors, can then destroy it; only for a store that nobody else writes to meanwhile.
    #[arg(long, env = "MVPS_TE_UNSAFE_NO_FENCING", value_parser = BoolishValueParser::new())]
    pub unsafe_no_fencing: bool,
}

/// Kinds of object stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ObjectStoreKind {
    /// S3 or something that speaks its protocol.
    S3,
    /// A folder.
    Local,
}

/// Flags that mean nothing together, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ContradictoryFlags(pub &'static str);

impl ObjectStoreArgs {
    /// The store that the flags name.
    ///
    /// # Errors
    /// If the flags contradict each other or one is missing.
    pub fn choice(&self) -> Result<ImageStoreChoice, ContradictoryFlags> {
        let bucket = self.image_store_s3_bucket.as_deref();
        let prefix = self.image_store_s3_prefix.as_deref();
        let path = self.image_store_local_path.as_deref();
        let kind = match (self.image_store, bucket, path) {
            (Some(kind), _, _) => kind,
            (None, Some(_), Some(_)) => {
                return Err(ContradictoryFlags(
                    "both a bucket and a local path are given: say which with --image-store s3 \
                     or --image-store local",
                ));
            }
            (None, Some(_), None) => ObjectStoreKind::S3,
            (None, None, Some(_)) => ObjectStoreKind::Local,
            (None, None, None) if prefix.is_some() => {
                return Err(ContradictoryFlags(
                    "--image-store-s3-prefix is given without --image-store-s3-bucket",
                ));
            }
            (None, None, None) => return Ok(ImageStoreChoice::Embedded),
        };
        match kind {
            ObjectStoreKind::S3 => s3(bucket, prefix),
            ObjectStoreKind::Local => match path {
                Some(path) if path.as_os_str().is_empty() => Err(ContradictoryFlags(
                    "--image-store-local-path is empty: name a folder",
                )),
                Some(path) => Ok(ImageStoreChoice::Local(path.to_owned())),
                None => Err(ContradictoryFlags(
                    "--image-store local needs a folder: add --image-store-local-path DIR",
                )),
            },
        }
    }
}

fn s3(bucket: Option<&str>, prefix: Option<&str>) -> Result<ImageStoreChoice, ContradictoryFlags> {
    let bucket = bucket
        .filter(|bucket| !bucket.is_empty())
        .ok_or(ContradictoryFlags(
            "--image-store s3 needs a bucket: add --image-store-s3-bucket BUCKET",
        ))?;
    let mut prefix = prefix.unwrap_or_default().to_owned();
    if prefix.starts_with('/') {
        return Err(ContradictoryFlags(
            "--image-store-s3-prefix must not begin with a slash",
        ));
    }
    if !prefix.is_empty() && !prefix.ends_with('/') {
        prefix.push('/');
    }
    Ok(ImageStoreChoice::S3 {
        bucket: bucket.to_owned(),
        prefix,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(flags: &str) -> ObjectStoreArgs {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            args: ObjectStoreArgs,
        }
        let line = std::iter::once("test").chain(flags.split_whitespace());
        <Only as clap::Parser>::try_parse_from(line)
            .expect(flags)
            .args
    }

    #[test]
    fn flags_choose_the_store() {
        let check = |flags: &str, expected: Option<ImageStoreChoice>| {
            let choice = args(flags).choice();
            assert_eq!(choice.clone().ok(), expected, "{flags}: {choice:?}");
        };
        let s3 = |prefix: &str| {
            Some(ImageStoreChoice::S3 {
                bucket: "b".to_owned(),
                prefix: prefix.to_owned(),
            })
        };
        let local = || Some(ImageStoreChoice::Local("/d".into()));
        check("", Some(ImageStoreChoice::Embedded));
        check("--image-store s3 --image-store-s3-bucket b", s3(""));
        check(
            "--image-store-s3-bucket b --image-store-s3-prefix p/",
            s3("p/"),
        );
        check(
            "--image-store-s3-bucket b --image-store-s3-prefix p/q",
            s3("p/q/"),
        );
        check("--image-store-s3-bucket b --image-store-s3-prefix /p", None);
        check("--image-store local --image-store-local-path /d", local());
        check("--image-store-local-path /d", local());
        check(
            "--image-store s3 --image-store-s3-bucket b --image-store-local-path /d",
            s3(""),
        );
        check(
            "--image-store-s3-bucket b --image-store-local-path /d",
            None,
        );
        check("--image-store s3", None);
        check("--image-store local", None);
        check("--image-store-s3-prefix p/", None);
    }
}
