//! Messages, services and clients generated from `proto/`.
#![expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code keeps its own rules"
)]

tonic::include_proto!("csi.v1");

/// The kubelet's plugin registration.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}
