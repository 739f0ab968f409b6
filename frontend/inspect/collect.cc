#include "frontend/inspect/collect.h"

#include <cerrno>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "policy/image/image.h"
#include "protocol/base/unique_fd.h"

namespace postern::inspect {
namespace {

std::string trimmed(std::string text) {
  text.erase(text.find_last_not_of('\n') + 1);
  return text;
}

Outcome<> take(Tree& tree, const std::string& path, std::string& out) {
  POSTERN_TRY_ASSIGN(std::optional<std::string> text, tree.file(path, kMaxFileBytes));
  if (text) {
    out = trimmed(*std::move(text));
  }
  return Ok{};
}

Outcome<> take_labels(Tree& tree,
                      const std::string& path,
                      std::map<std::string, std::string>& out) {
  POSTERN_TRY_ASSIGN(const std::optional<std::string> text, tree.file(path, kMaxFileBytes));
  if (!text) {
    return Ok{};
  }
  auto labels = parse_labels(*text);
  if (labels) {
    out = *std::move(labels);
  } else {
    message::warning(labels.error().what);  // the rest is still worth showing
  }
  return Ok{};
}

// The scripts that a definition file or an OCI image made; not the runtime's own.
bool shown(std::string_view name, bool of_app) {
  const auto matches = [&](std::string_view start, std::string_view end) {
    return name.starts_with(start) && name.ends_with(end) &&
           name.size() >= start.size() + end.size();
  };
  return matches("9", "-environment.sh") || (!of_app && matches("10-docker", ".sh"));
}

Outcome<> take_environment(Tree& tree,
                           const std::string& directory,
                           bool of_app,
                           std::map<std::string, std::string>& out) {
  POSTERN_TRY_ASSIGN(const std::vector<std::string> names, tree.names(directory));
  for (const std::string& name : names) {
    if (shown(name, of_app)) {
      const std::string path = directory + "/" + name;
      POSTERN_TRY_ASSIGN(std::optional<std::string> text, tree.file(path, kMaxFileBytes));
      if (text) {
        out[path] = trimmed(*std::move(text));
      }
    }
  }
  return Ok{};
}

template <class Part>
Outcome<> take_common(Tree& tree, const std::string& directory, bool of_app, Part& part) {
  POSTERN_TRY(take_labels(tree, directory + "/labels.json", part.labels));
  POSTERN_TRY(take(tree, directory + "/runscript", part.runscript));
  POSTERN_TRY(take(tree, directory + "/test", part.test));
  POSTERN_TRY(take(tree, directory + "/runscript.help", part.helpfile));
  return take_environment(tree, directory + "/env", of_app, part.environment);
}

}  // namespace

Outcome<Metadata> collect(Tree& tree) {
  Metadata metadata;
  POSTERN_TRY(take_common(tree, "/.singularity.d", false, metadata));
  POSTERN_TRY(take(tree, "/.singularity.d/startscript", metadata.startscript));
  // Apptainer's own images call it so; Singularity's, and ours, by the older name.
  POSTERN_TRY(take(tree, "/.singularity.d/Apptainer", metadata.deffile));
  if (metadata.deffile.empty()) {
    POSTERN_TRY(take(tree, "/.singularity.d/Singularity", metadata.deffile));
  }
  POSTERN_TRY_ASSIGN(const std::vector<std::string> apps, tree.names("/scif/apps"));
  for (const std::string& name : apps) {
    const std::string directory = "/scif/apps/" + name + "/scif";
    POSTERN_TRY_ASSIGN(const std::vector<std::string> inside, tree.names(directory));
    if (!inside.empty()) {
      POSTERN_TRY(take_common(tree, directory, true, metadata.apps[name]));
    }
  }
  return metadata;
}

namespace {

Outcome<Metadata> inspect_open(int fd) {
  Snapshot bytes(fd);
  POSTERN_TRY_ASSIGN(const image::ImageInfo info, image::identify(bytes));
  std::string deffile;
  if (info.sif) {
    for (const sif::Descriptor& d : info.sif->descriptors()) {
      if (d.type == sif::DataType::kDefinition) {
        POSTERN_TRY_ASSIGN(deffile, sif::read_object(bytes, *info.sif, d, kMaxFileBytes));
        break;
      }
    }
    const sif::Descriptor* object =
        info.sif->find(sif::DataType::kGenericJson, "inspect-metadata.json");
    if (object != nullptr) {
      POSTERN_TRY_ASSIGN(const std::string text,
                         sif::read_object(bytes, *info.sif, *object, kMaxMetadataBytes));
      return parse_metadata(text);
    }
  }
  POSTERN_TRY_ASSIGN(const std::unique_ptr<Tree> tree, open_tree(fd, info));
  POSTERN_TRY_ASSIGN(Metadata metadata, collect(*tree));
  if (!deffile.empty()) {
    metadata.deffile = trimmed(deffile);
  }
  return metadata;
}

}  // namespace

Outcome<Metadata> inspect(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid()) {
    return system_problem("opening " + path, errno);
  }
  auto metadata = inspect_open(fd.get());
  if (!metadata) {
    Problem problem = metadata.error();
    problem.what = path + ": " + problem.what;
    return problem;
  }
  return metadata;
}

}  // namespace postern::inspect
