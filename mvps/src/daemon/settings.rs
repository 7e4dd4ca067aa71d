//! From flags to decisions. Pure: looks at nothing but its arguments.

use std::path::{Path, PathBuf};

use crate::cli::{ImageStoreArgs, ImageStoreKind};

/// Where everything is when no flag says otherwise.
pub const EMBEDDED_PATH: &str = "./mvps-data";

/// Which object store holds the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageStoreChoice {
    /// The folder `objects` in [`EMBEDDED_PATH`], because no flag says otherwise.
    Embedded,
    /// A folder.
    Local(PathBuf),
    /// A bucket.
    S3 {
        /// Its name.
        bucket: String,
        /// Put before every key; empty, or ends in `/`.
        prefix: String,
    },
}

/// A combination of flags that means nothing, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(pub &'static str);

impl ImageStoreChoice {
    /// Decides.
    ///
    /// # Errors
    /// If the flags contradict each other or one is missing.
    pub fn from_args(args: &ImageStoreArgs) -> Result<Self, SettingsError> {
        let bucket = args.image_store_s3_bucket.as_deref();
        let prefix = args.image_store_s3_prefix.as_deref();
        let path = args.image_store_local_path.as_deref();
        let kind = match (args.image_store, bucket, path) {
            (Some(kind), _, _) => kind,
            (None, Some(_), Some(_)) => {
                return Err(SettingsError(
                    "both a bucket and a local path are given: say which with --image-store s3 \
                     or --image-store local",
                ));
            }
            (None, Some(_), None) => ImageStoreKind::S3,
            (None, None, Some(_)) => ImageStoreKind::Local,
            (None, None, None) if prefix.is_some() => {
                return Err(SettingsError(
                    "--image-store-s3-prefix is given without --image-store-s3-bucket",
                ));
            }
            (None, None, None) => return Ok(Self::Embedded),
        };
        match kind {
            ImageStoreKind::S3 => s3(bucket, prefix),
            ImageStoreKind::Local => match path {
                Some(path) if path.as_os_str().is_empty() => Err(SettingsError(
                    "--image-store-local-path is empty: name a folder",
                )),
                Some(path) => Ok(Self::Local(path.to_owned())),
                None => Err(SettingsError(
                    "--image-store local needs a folder: add --image-store-local-path DIR",
                )),
            },
        }
    }

    /// The folder, for a local store.
    #[must_use]
    pub fn local_path(&self) -> Option<PathBuf> {
        match self {
            Self::Embedded => Some(Path::new(EMBEDDED_PATH).join("objects")),
            Self::Local(path) => Some(path.clone()),
            Self::S3 { .. } => None,
        }
    }
}

fn s3(bucket: Option<&str>, prefix: Option<&str>) -> Result<ImageStoreChoice, SettingsError> {
    let bucket = bucket
        .filter(|bucket| !bucket.is_empty())
        .ok_or(SettingsError(
            "--image-store s3 needs a bucket: add --image-store-s3-bucket BUCKET",
        ))?;
    let mut prefix = prefix.unwrap_or_default().to_owned();
    if prefix.starts_with('/') {
        return Err(SettingsError(
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

impl std::fmt::Display for ImageStoreChoice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self, self.local_path()) {
            (Self::S3 { bucket, prefix }, _) => write!(formatter, "s3://{bucket}/{prefix}"),
            (_, path) => write!(formatter, "{}", path.unwrap_or_default().display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(flags: &str) -> ImageStoreArgs {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            args: ImageStoreArgs,
        }
        let line = std::iter::once("test").chain(flags.split_whitespace());
        <Only as clap::Parser>::try_parse_from(line)
            .expect(flags)
            .args
    }

    #[test]
    fn flags_choose_the_store() {
        let check = |flags: &str, expected: Option<ImageStoreChoice>| {
            let choice = ImageStoreChoice::from_args(&args(flags));
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
