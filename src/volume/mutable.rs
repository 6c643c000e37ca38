//! What can be changed while a volume is in use: the parameters of a VolumeAttributesClass.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use stead_meta::format::Format;

use crate::error::{Error, Result};
use crate::params::{is_of_kubernetes, number, sorted};

/// Settings to be changed; `None` stays as it is, 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MutableParams {
    /// Limit of inodes.
    pub inodes: Option<u64>,
    /// Days that removed files stay in the trash.
    pub trash_days: Option<u32>,
    /// Mbit/s that each client may write to the object storage.
    pub upload_limit: Option<u64>,
    /// Mbit/s that each client may read from it.
    pub download_limit: Option<u64>,
}

impl MutableParams {
    /// Reads what a call brings.
    ///
    /// # Errors
    /// Names the parameter that is unknown or wrong.
    pub fn parse(parameters: &HashMap<String, String>) -> Result<Self> {
        let mut params = Self::default();
        for (name, value) in sorted(parameters) {
            let wrong = |expected: &str| Error::parameter(name, value, expected);
            let mbits = || number(value).ok_or_else(|| wrong("a limit in Mbit/s, 0 for none"));
            match name {
                "inodes" => {
                    params.inodes = Some(number(value).ok_or_else(|| wrong("a number of inodes, 0 for no limit"))?)
                }
                "trashDays" => params.trash_days = Some(number(value).ok_or_else(|| wrong("a number of days"))?),
                "uploadLimit" => params.upload_limit = Some(mbits()?),
                "downloadLimit" => params.download_limit = Some(mbits()?),
                "capacity" => return Err(wrong("changed like this: expand the PersistentVolumeClaim instead")),
                _ if is_of_kubernetes(name) => {}
                _ => return Err(Error::UnknownParameter { name: name.to_owned() }),
            }
        }
        Ok(params)
    }

    /// Refuses what only a file system of its own can have.
    ///
    /// # Errors
    /// Names the first such parameter.
    pub(crate) fn check_for_directory(&self) -> Result<()> {
        let of_format = [
            ("trashDays", self.trash_days.map(u64::from)),
            ("uploadLimit", self.upload_limit),
            ("downloadLimit", self.download_limit),
        ];
        match of_format.into_iter().find_map(|(name, value)| Some((name, value?))) {
            None => Ok(()),
            Some((name, value)) => {
                let expected =
                    "possible for a directory: it is a setting of a whole file system (provisioning: filesystem)";
                Err(Error::parameter(name, &value.to_string(), expected))
            }
        }
    }

    /// These on top of `older` ones.
    pub(crate) fn over(self, older: Self) -> Self {
        Self {
            inodes: self.inodes.or(older.inodes),
            trash_days: self.trash_days.or(older.trash_days),
            upload_limit: self.upload_limit.or(older.upload_limit),
            download_limit: self.download_limit.or(older.download_limit),
        }
    }

    /// Writes them into a Format.
    pub(crate) fn apply(&self, format: &mut Format) {
        format.inodes = self.inodes.unwrap_or(format.inodes);
        format.trash_days = self.trash_days.unwrap_or(format.trash_days);
        format.upload_limit = self.upload_limit.unwrap_or(format.upload_limit);
        format.download_limit = self.download_limit.unwrap_or(format.download_limit);
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, value: &str) -> Result<MutableParams> {
        MutableParams::parse(&HashMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn the_parameters_of_an_attributes_class_are_read() {
        let given = [("inodes", "5000"), ("trashDays", "3"), ("uploadLimit", "100"), ("downloadLimit", "0")];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let read = MutableParams::parse(&HashMap::from(given)).expect("right");
        let whole =
            MutableParams { inodes: Some(5000), trash_days: Some(3), upload_limit: Some(100), download_limit: Some(0) };
        assert_eq!(read, whole);
        assert!(parse("csi.storage.k8s.io/pv/name", "v").expect("not ours to refuse").is_empty());
        let more = MutableParams { inodes: Some(1), ..MutableParams::default() };
        assert_eq!(more.over(whole), MutableParams { inodes: Some(1), ..whole });
    }

    #[test]
    fn wrong_ones_are_named() {
        for (name, value, named) in [
            ("inodes", "many", "parameter inodes: \"many\""),
            ("trashDays", "-1", "trashDays"),
            ("uploadLimit", "1G", "Mbit/s"),
            ("downloadLimit", "", "downloadLimit"),
            ("capacity", "1Gi", "expand the PersistentVolumeClaim"),
            ("mode", "0755", "unknown parameter \"mode\""),
        ] {
            let error = parse(name, value).expect_err(named).to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
        for (name, only_own) in [("inodes", false), ("trashDays", true), ("uploadLimit", true), ("downloadLimit", true)]
        {
            let checked = parse(name, "1").expect("right").check_for_directory();
            assert_eq!(checked.is_err_and(|error| error.to_string().contains(name)), only_own, "{name}");
        }
    }
}
