#include "frontend/imagebuild/oci_json.h"

#include <nlohmann/json.hpp>

#include "frontend/imagebuild/stream.h"
#include "policy/json/document.h"

namespace postern::imagebuild {
namespace {

using nlohmann::json;

Problem malformed(const std::string& what) {
  return Problem{.what = what, .cure = "the image is damaged, or was made by a broken tool"};
}

Outcome<json> parse(std::string_view text, const char* what) {
  if (text.size() > kMaxDocument) {
    return malformed(std::string(what) + " is too large");
  }
  json document = postern::json::parse_document(text);
  if (document.is_discarded()) {
    return malformed(std::string(what) + " is not JSON, or nests too deep");
  }
  return document;
}

const json* member(const json& object, const char* name) {
  if (!object.is_object()) {
    return nullptr;
  }
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

// Optional text: "" where it is missing.
Outcome<std::string> text_member(const json& object, const char* name, const char* what) {
  const json* value = member(object, name);
  if (value == nullptr) {
    return std::string();
  }
  if (!value->is_string()) {
    return malformed(std::string(what) + ": '" + name + "' is not a text");
  }
  return value->get<std::string>();
}

// Optional list of texts.
Outcome<std::vector<std::string>> texts_member(const json& object,
                                               const char* name,
                                               const char* what) {
  std::vector<std::string> out;
  const json* value = member(object, name);
  if (value == nullptr) {
    return out;
  }
  if (!value->is_array()) {
    return malformed(std::string(what) + ": '" + name + "' is not a list");
  }
  for (const json& item : *value) {
    if (!item.is_string()) {
      return malformed(std::string(what) + ": '" + name + "' does not hold texts only");
    }
    out.push_back(item.get<std::string>());
  }
  return out;
}

Outcome<OciDescriptor> descriptor(const json& value, const char* what) {
  OciDescriptor out;
  if (!value.is_object()) {
    return malformed(std::string(what) + ": a descriptor is not an object");
  }
  POSTERN_TRY_ASSIGN(out.media_type, text_member(value, "mediaType", what));
  POSTERN_TRY_ASSIGN(out.digest, text_member(value, "digest", what));
  if (!is_sha256_digest(out.digest)) {
    return malformed(std::string(what) + ": digest '" + out.digest.substr(0, 80) +
                     "' is not sha256:<64 digits>");
  }
  const json* size = member(value, "size");
  if (size == nullptr || !size->is_number_unsigned()) {
    return malformed(std::string(what) + ": a descriptor without a size");
  }
  out.size = size->get<std::uint64_t>();
  if (const json* annotations = member(value, "annotations"); annotations != nullptr) {
    POSTERN_TRY_ASSIGN(out.name,
                       text_member(*annotations, "org.opencontainers.image.ref.name", what));
  }
  if (const json* platform = member(value, "platform"); platform != nullptr) {
    POSTERN_TRY_ASSIGN(out.os, text_member(*platform, "os", what));
    POSTERN_TRY_ASSIGN(out.architecture, text_member(*platform, "architecture", what));
    POSTERN_TRY_ASSIGN(out.variant, text_member(*platform, "variant", what));
  }
  POSTERN_TRY_ASSIGN(out.urls, texts_member(value, "urls", what));
  return out;
}

std::string described(const OciDescriptor& candidate) {
  std::string text = candidate.name.empty() ? candidate.digest.substr(0, 19) : candidate.name;
  if (!candidate.architecture.empty()) {
    text += " (" + candidate.os + "/" + candidate.architecture + ")";
  }
  return text;
}

}  // namespace

bool is_index(std::string_view media_type) {
  return media_type == "application/vnd.oci.image.index.v1+json" ||
         media_type == "application/vnd.docker.distribution.manifest.list.v2+json";
}

bool is_manifest(std::string_view media_type) {
  return media_type == "application/vnd.oci.image.manifest.v1+json" ||
         media_type == "application/vnd.docker.distribution.manifest.v2+json";
}

Outcome<std::vector<DockerImage>> parse_docker_manifest(std::string_view text) {
  constexpr const char* kWhat = "manifest.json";
  POSTERN_TRY_ASSIGN(const json document, parse(text, kWhat));
  if (!document.is_array() || document.empty()) {
    return malformed("manifest.json lists no image");
  }
  std::vector<DockerImage> images;
  for (const json& entry : document) {
    DockerImage image;
    POSTERN_TRY_ASSIGN(image.config, text_member(entry, "Config", kWhat));
    POSTERN_TRY_ASSIGN(image.layers, texts_member(entry, "Layers", kWhat));
    POSTERN_TRY_ASSIGN(image.tags, texts_member(entry, "RepoTags", kWhat));
    if (image.config.empty()) {
      return malformed("manifest.json: an image without 'Config'");
    }
    if (image.layers.size() > kMaxLayers) {
      return malformed("manifest.json: an image of " + std::to_string(image.layers.size()) +
                       " layers");
    }
    images.push_back(std::move(image));
  }
  return images;
}

Outcome<std::vector<OciDescriptor>> parse_oci_index(std::string_view text) {
  constexpr const char* kWhat = "image index";
  POSTERN_TRY_ASSIGN(const json document, parse(text, kWhat));
  const json* manifests = member(document, "manifests");
  if (manifests == nullptr || !manifests->is_array()) {
    return malformed("the image index lists no manifests");
  }
  std::vector<OciDescriptor> out;
  for (const json& entry : *manifests) {
    POSTERN_TRY_ASSIGN(OciDescriptor item, descriptor(entry, kWhat));
    out.push_back(std::move(item));
  }
  return out;
}

Outcome<OciManifest> parse_oci_manifest(std::string_view text) {
  constexpr const char* kWhat = "image manifest";
  POSTERN_TRY_ASSIGN(const json document, parse(text, kWhat));
  OciManifest out;
  const json* config = member(document, "config");
  const json* layers = member(document, "layers");
  if (config == nullptr || layers == nullptr || !layers->is_array()) {
    return malformed("the image manifest has no config or no layers");
  }
  if (layers->size() > kMaxLayers) {
    return malformed("the image manifest has " + std::to_string(layers->size()) + " layers");
  }
  POSTERN_TRY_ASSIGN(out.config, descriptor(*config, kWhat));
  for (const json& entry : *layers) {
    POSTERN_TRY_ASSIGN(OciDescriptor layer, descriptor(entry, kWhat));
    if (layer.media_type.ends_with("+encrypted")) {
      return Problem{.what = "the image has encrypted layers",
                     .cure = "decrypt it first (skopeo copy --decryption-key)"};
    }
    out.layers.push_back(std::move(layer));
  }
  return out;
}

Outcome<OciDescriptor> choose_image(const std::vector<OciDescriptor>& candidates,
                                    std::string_view reference,
                                    std::string_view architecture) {
  std::vector<OciDescriptor> left;
  for (const OciDescriptor& candidate : candidates) {
    // "name:tag" is stored by some tools, "tag" by others.
    const bool named = reference.empty() || candidate.name == reference ||
                       candidate.digest == reference ||
                       candidate.name.ends_with(":" + std::string(reference));
    const bool known = candidate.media_type.empty() || is_index(candidate.media_type) ||
                       is_manifest(candidate.media_type);
    if (named && known) {
      left.push_back(candidate);
    }
  }
  if (left.empty()) {
    std::string names;
    for (const OciDescriptor& candidate : candidates) {
      names += (names.empty() ? "" : ", ") + described(candidate);
    }
    return Problem{.what = reference.empty()
                               ? std::string("the index lists no image")
                               : "the index has no image '" + std::string(reference) + "'",
                   .cure = names.empty() ? "" : "it has: " + names};
  }
  if (left.size() > 1) {
    std::vector<OciDescriptor> fitting;
    for (const OciDescriptor& candidate : left) {
      if ((candidate.os.empty() || candidate.os == "linux") &&
          candidate.architecture == architecture) {
        fitting.push_back(candidate);
      }
    }
    // Of several variants of one architecture, the first: the image's own order of preference.
    if (fitting.size() == 1 ||
        (!fitting.empty() && fitting.front().variant != fitting.back().variant)) {
      return fitting.front();
    }
    std::string names;
    for (const OciDescriptor& candidate : left) {
      names += (names.empty() ? "" : ", ") + described(candidate);
    }
    return Problem{.what = fitting.empty()
                               ? "none of the images is for linux/" + std::string(architecture)
                               : "several images fit",
                   .cure = "name one by its tag, or choose with --arch: " + names};
  }
  return left.front();
}

Outcome<OciDescriptor> choose_platform(const std::vector<OciDescriptor>& candidates,
                                       const std::string& architecture,
                                       const std::string& variant,
                                       const std::string& name) {
  const OciDescriptor* best = nullptr;
  std::string platforms;
  for (const OciDescriptor& candidate : candidates) {
    // No platform means the one that all images were for once.
    const bool silent = candidate.os.empty() && candidate.architecture.empty();
    const std::string os = silent ? "linux" : candidate.os;
    const std::string own = silent ? "amd64" : candidate.architecture;
    if (os != "unknown") {  // attestations say so
      platforms += (platforms.empty() ? "" : ", ") + os + "/" + own +
                   (candidate.variant.empty() ? "" : "/" + candidate.variant);
    }
    const bool is_image = candidate.media_type.empty() || is_index(candidate.media_type) ||
                          is_manifest(candidate.media_type);
    if (!is_image || os != "linux" || own != architecture ||
        (!variant.empty() && candidate.variant != variant)) {
      continue;
    }
    if (best == nullptr ||
        (architecture == "arm" && candidate.variant > best->variant && candidate.variant <= "v7")) {
      best = &candidate;
    }
  }
  if (best == nullptr) {
    return Problem{
        .what = "no child with platform linux/" + architecture +
                (variant.empty() ? "" : "/" + variant) + " in index " + name,
        .cure = platforms.empty() ? "" : "choose with --arch and --arch-variant: " + platforms};
  }
  return *best;
}

bool is_tar_layer(std::string_view media_type) {
  return (media_type.starts_with("application/vnd.oci.image.layer.") ||
          media_type.starts_with("application/vnd.docker.image.rootfs.")) &&
         media_type.find("tar") != std::string_view::npos;
}

bool is_foreign_layer(std::string_view media_type) {
  return media_type.find(".nondistributable.") != std::string_view::npos ||
         media_type.find(".foreign.") != std::string_view::npos;
}

Outcome<ParsedConfig> parse_image_config(std::string_view text) {
  constexpr const char* kWhat = "image configuration";
  POSTERN_TRY_ASSIGN(const json document, parse(text, kWhat));
  if (!document.is_object()) {
    return malformed("the image configuration is not an object");
  }
  ParsedConfig out;
  out.config.raw = text;
  POSTERN_TRY_ASSIGN(out.config.architecture, text_member(document, "architecture", kWhat));
  POSTERN_TRY_ASSIGN(out.config.created, text_member(document, "created", kWhat));
  if (const json* settings = member(document, "config"); settings != nullptr) {
    POSTERN_TRY_ASSIGN(out.config.environment, texts_member(*settings, "Env", kWhat));
    POSTERN_TRY_ASSIGN(out.config.entrypoint, texts_member(*settings, "Entrypoint", kWhat));
    POSTERN_TRY_ASSIGN(out.config.command, texts_member(*settings, "Cmd", kWhat));
    if (const json* labels = member(*settings, "Labels"); labels != nullptr) {
      if (!labels->is_object()) {
        return malformed("image configuration: 'Labels' is not an object");
      }
      for (const auto& [name, value] : labels->items()) {
        if (value.is_string()) {
          out.config.labels[name] = value.get<std::string>();
        }
      }
    }
  }
  if (const json* rootfs = member(document, "rootfs"); rootfs != nullptr) {
    POSTERN_TRY_ASSIGN(out.diff_ids, texts_member(*rootfs, "diff_ids", kWhat));
  }
  for (const std::string& diff_id : out.diff_ids) {
    if (!is_sha256_digest(diff_id)) {
      return malformed("image configuration: layer id '" + diff_id.substr(0, 80) +
                       "' is not sha256:<64 digits>");
    }
  }
  // NUL ends an argument and a variable for the kernel; a shell script cannot hold it either.
  for (const auto* list : {&out.config.environment, &out.config.entrypoint, &out.config.command}) {
    for (const std::string& word : *list) {
      if (word.find('\0') != std::string::npos) {
        return malformed("image configuration: a NUL byte in Env, Entrypoint or Cmd");
      }
    }
  }
  return out;
}

}  // namespace postern::imagebuild
