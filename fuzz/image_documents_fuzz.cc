// The JSON of OCI and Docker images, definition files, and what scripts are made from them.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/build/definition.h"
#include "frontend/build/layout.h"
#include "frontend/build/oci_json.h"
#include "frontend/build/stream.h"
#include "frontend/message/message.h"
#include "fuzz/target.h"

namespace {

namespace build = postern::build;

void require(bool holds) {
  if (!holds) {
    __builtin_trap();
  }
}

void check(const build::OciDescriptor& descriptor) {
  require(build::is_sha256_digest(descriptor.digest));
}

void check_config(std::string_view text) {
  const auto parsed = build::parse_image_config(text);
  if (!parsed) {
    return;
  }
  for (const std::string& diff_id : parsed->diff_ids) {
    require(build::is_sha256_digest(diff_id));
  }
  const std::string script =
      build::oci_runscript(parsed->config.entrypoint, parsed->config.command);
  require(script.starts_with("#!/bin/sh\n") && script.ends_with(" \"$@\"\n") &&
          script.find('\0') == std::string::npos);
  require(build::environment_script(parsed->config.environment).find('\0') == std::string::npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  postern::message::configure(postern::message::Level::kFatal, false);
  const std::string_view text(reinterpret_cast<const char*>(data),
                              size);  // SAFETY: bytes are chars
  if (const auto images = build::parse_docker_manifest(text)) {
    for (const build::DockerImage& image : *images) {
      require(!image.config.empty() && image.layers.size() <= build::kMaxLayers);
    }
  }
  if (const auto index = build::parse_oci_index(text)) {
    for (const build::OciDescriptor& descriptor : *index) {
      check(descriptor);
    }
    if (const auto chosen = build::choose_image(*index, "", "amd64")) {
      check(*chosen);
    }
  }
  if (const auto manifest = build::parse_oci_manifest(text)) {
    check(manifest->config);
    for (const build::OciDescriptor& layer : manifest->layers) {
      check(layer);
    }
  }
  check_config(text);
  std::vector<std::string> unused;
  if (const auto definition = build::parse_definition(text, {{"NAME", "value"}}, unused)) {
    require(!definition->stages.empty());
    // Filling templates is done once: what a value holds is not looked at again.
    require(unused.size() <= 1);
  }
  return 0;
}
