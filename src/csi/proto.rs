//! Messages, services and clients generated from `proto/csi.proto`.

tonic::include_proto!("csi.v1");
