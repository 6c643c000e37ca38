//! How a volume is to be used, read from the request once.

use crate::error::{Error, Result};
use crate::proto::VolumeCapability;
use crate::proto::volume_capability::AccessType;
use crate::proto::volume_capability::access_mode::Mode;

/// A use of a volume as a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capability {
    /// By how many, where.
    pub(crate) mode: Mode,
    /// Mount options.
    pub(crate) mount_flags: Vec<String>,
    /// The group that gets to use it.
    pub(crate) group: Option<u32>,
}

impl Capability {
    /// Reads a capability that must be there.
    ///
    /// # Errors
    /// Block access, an unknown mode, a group that is no number.
    pub(crate) fn parse(capability: Option<&VolumeCapability>) -> Result<Self> {
        let capability = capability.ok_or(Error::Missing { field: "volume_capability" })?;
        let mount = match &capability.access_type {
            Some(AccessType::Mount(mount)) => mount,
            Some(AccessType::Block(_)) => {
                return Err(Error::Capability { why: "block volumes are not supported, ask for a file system" });
            }
            None => return Err(Error::Capability { why: "the access type is required" }),
        };
        let mode = capability.access_mode.as_ref().ok_or(Error::Capability { why: "the access mode is required" })?;
        let mode = match Mode::try_from(mode.mode) {
            Ok(Mode::Unknown) | Err(_) => return Err(Error::Capability { why: "unknown access mode" }),
            Ok(mode) => mode,
        };
        let group = match mount.volume_mount_group.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_not_a_number| Error::Field {
                field: "volume_mount_group",
                value: text.to_owned(),
                why: "expected the number of a group",
            })?),
        };
        Ok(Self { mode, mount_flags: mount.mount_flags.clone(), group })
    }

    /// Reads the capabilities of a request, of which there must be one.
    ///
    /// # Errors
    /// As of [`Capability::parse`]; mount options that are unknown.
    pub(crate) fn parse_all(capabilities: &[VolumeCapability]) -> Result<()> {
        if capabilities.is_empty() {
            return Err(Error::Missing { field: "volume_capabilities" });
        }
        for capability in capabilities {
            let flags = Self::parse(Some(capability))?.mount_flags;
            let mut options = stead_volume::MountOptions::default();
            options.apply(flags.iter().flat_map(|flag| flag.split(','))).map_err(stead_volume::Error::from)?;
        }
        Ok(())
    }

    /// Whether the mode allows no change.
    pub(crate) fn read_only(&self) -> bool {
        matches!(self.mode, Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly)
    }

    /// Whether the mode allows one target only (ReadWriteOncePod).
    pub(crate) fn exclusive(&self) -> bool {
        self.mode == Mode::SingleNodeSingleWriter
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::proto::volume_capability::{AccessMode, BlockVolume, MountVolume};

    /// A capability for use as a file system.
    pub(crate) fn mount_capability(mode: Mode) -> VolumeCapability {
        VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume::default())),
            access_mode: Some(AccessMode { mode: mode.into() }),
        }
    }

    #[test]
    fn all_seven_modes_are_accepted() {
        for number in 1..=7 {
            let mode = Mode::try_from(number).expect("defined");
            assert_eq!(Capability::parse(Some(&mount_capability(mode))).expect("supported").mode, mode);
        }
    }

    #[test]
    fn wrong_capabilities_are_refused_with_the_reason() {
        let good = mount_capability(Mode::MultiNodeMultiWriter);
        let with_group = |group: &str| VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume {
                volume_mount_group: group.into(),
                ..Default::default()
            })),
            ..good.clone()
        };
        assert_eq!(Capability::parse(Some(&with_group("1000"))).expect("a number").group, Some(1000));
        let block = VolumeCapability { access_type: Some(AccessType::Block(BlockVolume {})), ..good.clone() };
        let unknown = VolumeCapability { access_mode: Some(AccessMode { mode: 99 }), ..good.clone() };
        for (capability, why) in [
            (None, "volume_capability is required"),
            (Some(block), "block"),
            (Some(VolumeCapability { access_type: None, ..good.clone() }), "access type"),
            (Some(VolumeCapability { access_mode: None, ..good.clone() }), "access mode"),
            (Some(mount_capability(Mode::Unknown)), "unknown access mode"),
            (Some(unknown), "unknown access mode"),
            (Some(with_group("users")), "number of a group"),
        ] {
            let error = Capability::parse(capability.as_ref()).expect_err(why);
            assert!(error.to_string().contains(why), "{error}");
            assert_eq!(error.code(), tonic::Code::InvalidArgument);
        }
    }
}
