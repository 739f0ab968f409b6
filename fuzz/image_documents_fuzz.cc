// The JSON of OCI and Docker images, definition files, and what scripts are made from them.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/imagebuild/definition.h"
#include "frontend/imagebuild/layout.h"
#include "frontend/imagebuild/oci_json.h"
#include "frontend/imagebuild/stream.h"
#include "frontend/message/message.h"
#include "fuzz/target.h"

namespace {

namespace imagebuild = postern::imagebuild;

void require(bool holds) {
  if (!holds) {
    __builtin_trap();
  }
}

void check(const imagebuild::OciDescriptor& descriptor) {
  require(imagebuild::is_sha256_digest(descriptor.digest));
}

void check_config(std::string_view text) {
  const auto parsed = imagebuild::parse_image_config(text);
  if (!parsed) {
    return;
  }
  for (const std::string& diff_id : parsed->diff_ids) {
    require(imagebuild::is_sha256_digest(diff_id));
  }
  const std::string script =
      imagebuild::oci_runscript(parsed->config.entrypoint, parsed->config.command);
  require(script.starts_with("#!/bin/sh\n") && script.ends_with(" \"$@\"\n") &&
          script.find('\0') == std::string::npos);
  require(imagebuild::environment_script(parsed->config.environment).find('\0') ==
          std::string::npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  postern::message::configure(postern::message::Level::kFatal, false);
  const std::string_view text(reinterpret_cast<const char*>(data),
                              size);  // SAFETY: bytes are chars
  if (const auto images = imagebuild::parse_docker_manifest(text)) {
    for (const imagebuild::DockerImage& image : *images) {
      require(!image.config.empty() && image.layers.size() <= imagebuild::kMaxLayers);
    }
  }
  if (const auto index = imagebuild::parse_oci_index(text)) {
    for (const imagebuild::OciDescriptor& descriptor : *index) {
      check(descriptor);
    }
    if (const auto chosen = imagebuild::choose_image(*index, "", "amd64")) {
      check(*chosen);
    }
  }
  if (const auto manifest = imagebuild::parse_oci_manifest(text)) {
    check(manifest->config);
    for (const imagebuild::OciDescriptor& layer : manifest->layers) {
      check(layer);
    }
  }
  check_config(text);
  std::vector<std::string> unused;
  if (const auto definition = imagebuild::parse_definition(text, {{"NAME", "value"}}, unused)) {
    require(!definition->stages.empty());
    // Filling templates is done once: what a value holds is not looked at again.
    require(unused.size() <= 1);
  }
  return 0;
}
