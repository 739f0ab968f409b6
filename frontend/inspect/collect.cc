#include "frontend/inspect/collect.h"

#include <algorithm>
#include <cerrno>
#include <optional>

#include <fcntl.h>
#include <unistd.h>

#include "policy/image/image.h"
#include "protocol/base/unique_fd.h"

namespace postern::inspect {
namespace {

std::string trimmed(std::string text) {
  text.erase(text.find_last_not_of('\n') + 1);
  return text;
}

// The scripts that a definition file or an OCI image made; not the runtime's own.
bool shown(std::string_view name, bool of_app) {
  const auto matches = [&](std::string_view start, std::string_view end) {
    return name.starts_with(start) && name.ends_with(end) &&
           name.size() >= start.size() + end.size();
  };
  return matches("9", "-environment.sh") || (!of_app && matches("10-docker", ".sh"));
}

// What cannot be read is left out with a word: the rest is still worth showing.
class Collector {
 public:
  explicit Collector(Tree& tree) : tree_(tree) {}

  std::optional<std::string> file(const std::string& path) {
    auto text = tree_.file(path, kMaxFileBytes);
    if (!text) {
      left_out.push_back(path + ": " + text.error().what);
      return std::nullopt;
    }
    return *std::move(text);
  }

  std::vector<std::string> names(const std::string& path) {
    auto found = tree_.names(path);
    if (!found) {
      left_out.push_back(path + ": " + found.error().what);
      return {};
    }
    return *std::move(found);
  }

  void take(const std::string& path, std::string& out) {
    if (auto text = file(path)) {
      out = trimmed(*std::move(text));
    }
  }

  template <class Part>
  void take_common(const std::string& directory, bool of_app, Part& part) {
    take_labels(directory + "/labels.json", part.labels);
    take(directory + "/runscript", part.runscript);
    take(directory + "/test", part.test);
    take(directory + "/runscript.help", part.helpfile);
    take_environment(directory + "/env", of_app, part.environment);
  }

  std::vector<std::string> left_out;

 private:
  void take_labels(const std::string& path, std::map<std::string, std::string>& out) {
    const std::optional<std::string> text = file(path);
    if (!text) {
      return;
    }
    if (auto labels = parse_labels(*text)) {
      out = *std::move(labels);
    } else {
      left_out.push_back(path + ": " + labels.error().what);
    }
  }

  void take_environment(const std::string& directory,
                        bool of_app,
                        std::map<std::string, std::string>& out) {
    for (const std::string& name : names(directory)) {
      const std::string path = directory + "/" + name;
      if (auto text = shown(name, of_app) ? file(path) : std::nullopt) {
        out[path] = trimmed(*std::move(text));
      }
    }
  }

  Tree& tree_;
};

}  // namespace

Metadata collect(Tree& tree) {
  Metadata metadata;
  Collector collector(tree);
  collector.take_common("/.singularity.d", false, metadata);
  collector.take("/.singularity.d/startscript", metadata.startscript);
  // Apptainer's own images call it so; Singularity's, and ours, by the older name.
  collector.take("/.singularity.d/Apptainer", metadata.deffile);
  if (metadata.deffile.empty()) {
    collector.take("/.singularity.d/Singularity", metadata.deffile);
  }
  for (const std::string& name : collector.names("/scif/apps")) {
    const std::string directory = "/scif/apps/" + name + "/scif";
    if (!collector.names(directory).empty()) {
      collector.take_common(directory, true, metadata.apps[name]);
    }
  }
  metadata.left_out = std::move(collector.left_out);
  return metadata;
}

namespace {

// "object 3 (inspect-metadata.json): why"
std::string about(const sif::Descriptor& object, const Problem& problem) {
  return "object " + std::to_string(object.id) + " (" + object.name + "): " + problem.what;
}

const sif::Descriptor* first_of(const sif::Image& image, sif::DataType type) {
  const auto& all = image.descriptors();
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const sif::Descriptor& d) { return d.type == type; });
  return found == all.end() ? nullptr : &*found;
}

Outcome<Metadata> metadata_object(Snapshot& bytes,
                                  const sif::Image& image,
                                  const sif::Descriptor& object) {
  POSTERN_TRY_ASSIGN(const std::string text,
                     sif::read_object(bytes, image, object, kMaxMetadataBytes));
  return parse_metadata(text);
}

Outcome<Metadata> from_tree(int fd, const image::ImageInfo& info) {
  POSTERN_TRY_ASSIGN(const std::unique_ptr<Tree> tree, open_tree(fd, info));
  return collect(*tree);
}

bool says_nothing(const Metadata& metadata) {
  return metadata.apps.empty() && metadata.environment.empty() && metadata.labels.empty() &&
         metadata.runscript.empty() && metadata.test.empty() && metadata.helpfile.empty() &&
         metadata.deffile.empty() && metadata.startscript.empty();
}

// The metadata object says it all; without one, or if it is malformed, the file system does; what
// the definition file's own object holds counts before what lies in the file system.
Outcome<Metadata> inspect_open(int fd) {
  Snapshot bytes(fd);
  POSTERN_TRY_ASSIGN(const image::ImageInfo info, image::identify(bytes));
  std::vector<std::string> left_out;
  std::optional<std::string> deffile;
  if (info.sif) {
    if (const auto* object = info.sif->find(sif::DataType::kGenericJson, "inspect-metadata.json")) {
      auto metadata = metadata_object(bytes, *info.sif, *object);
      if (metadata) {
        return metadata;
      }
      left_out.push_back(about(*object, metadata.error()));
    }
    if (const auto* object = first_of(*info.sif, sif::DataType::kDefinition)) {
      auto text = sif::read_object(bytes, *info.sif, *object, kMaxFileBytes);
      if (text) {
        deffile = trimmed(*std::move(text));
      } else {
        left_out.push_back(about(*object, text.error()));
      }
    }
  }
  auto found = from_tree(fd, info);
  if (!found && !deffile) {
    return found;
  }
  Metadata metadata;
  if (found) {
    metadata = *std::move(found);
  } else {
    left_out.push_back(found.error().what);
  }
  if (deffile && !deffile->empty()) {
    metadata.deffile = *std::move(deffile);
  }
  metadata.left_out.insert(metadata.left_out.begin(), left_out.begin(), left_out.end());
  if (!metadata.left_out.empty() && says_nothing(metadata)) {
    return Problem{.what = metadata.left_out.front(),
                   .cure = "the image is damaged: fetch or build it again"};
  }
  return metadata;
}

}  // namespace

Outcome<Metadata> inspect(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid()) {
    return path_problem("opening " + path, errno, "check the path");
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
