// The JSON documents of OCI and Docker images, from bytes to structs. Pure functions; the bytes
// come from strangers. Unknown members are ignored, wrong types and missing members are Problems.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/imagebuild/layout.h"
#include "policy/problem.h"

namespace postern::imagebuild {

// A document larger than this is not one (a manifest of 127 layers has about 30 kB).
inline constexpr std::uint64_t kMaxDocument = std::uint64_t{4} << 20;
// As many layers as an overlay can stack, and more than any registry takes.
inline constexpr std::size_t kMaxLayers = 512;

// One image of manifest.json in what `docker save` writes. Paths are members of the archive.
struct DockerImage {
  std::string config;
  std::vector<std::string> layers;
  std::vector<std::string> tags;
};

Outcome<std::vector<DockerImage>> parse_docker_manifest(std::string_view text);

// OCI content descriptor.
struct OciDescriptor {
  std::string media_type;
  std::string digest;  // "sha256:<64 hex>", checked for its form
  std::uint64_t size = 0;
  std::string name;  // annotation org.opencontainers.image.ref.name
  std::string os;
  std::string architecture;
  std::string variant;
  std::vector<std::string> urls;  // of a layer that its registry may not hold
};

// An image index (index.json, or one further inside). False where it is an image manifest.
Outcome<std::vector<OciDescriptor>> parse_oci_index(std::string_view text);

struct OciManifest {
  OciDescriptor config;
  std::vector<OciDescriptor> layers;
};

Outcome<OciManifest> parse_oci_manifest(std::string_view text);

bool is_index(std::string_view media_type);
bool is_manifest(std::string_view media_type);

// Which of `candidates` the user means: by name where `reference` is not empty, then by platform
// (Linux and `architecture`). Exactly one must be left, else the Problem lists them.
Outcome<OciDescriptor> choose_image(const std::vector<OciDescriptor>& candidates,
                                    std::string_view reference,
                                    std::string_view architecture);

// Of the images in an index, the one for Linux on `architecture`. `variant` empty: on 32-bit ARM
// the highest, else the first. `name` of the index is for the Problem.
Outcome<OciDescriptor> choose_platform(const std::vector<OciDescriptor>& candidates,
                                       const std::string& architecture,
                                       const std::string& variant,
                                       const std::string& name);

// Whether a layer of this media type is a tar archive of files.
bool is_tar_layer(std::string_view media_type);
// What other tools than registries may hold for a registry ("foreign", "nondistributable").
bool is_foreign_layer(std::string_view media_type);

struct ParsedConfig {
  ImageConfig config;
  std::vector<std::string> diff_ids;  // "sha256:…" of each layer's plain tar, lowest first
};

Outcome<ParsedConfig> parse_image_config(std::string_view text);

}  // namespace postern::imagebuild
