#include "frontend/imagebuild/stage_files.h"

#include <cerrno>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <fnmatch.h>

#include "frontend/imagebuild/beneath.h"
#include "frontend/imagebuild/directory_source.h"
#include "frontend/imagebuild/directory_writer.h"
#include "frontend/imagebuild/interrupt.h"
#include "frontend/message/message.h"

namespace postern::imagebuild {
namespace {

constexpr std::uint32_t kFilesLayer = ~std::uint32_t{0} - 1;

// Paths in the tree that a pattern names, in order of their names.
std::vector<std::string> matches(const Tree& tree, const std::vector<std::string>& pattern) {
  std::vector<std::string> found{""};
  for (const std::string& component : pattern) {
    std::vector<std::string> next;
    for (const std::string& base : found) {
      const InodeId directory = tree.find_id(base);
      if (directory == Tree::kNone || tree[directory].kind != Kind::kDirectory) {
        continue;
      }
      for (const auto& [name, entry] : *tree[directory].children) {
        if (name == component || ::fnmatch(component.c_str(), name.c_str(), FNM_PERIOD) == 0) {
          next.push_back(base + "/" + name);
        }
      }
    }
    found = std::move(next);
  }
  return found;
}

Inode copy_of(const Inode& inode) {
  Inode out;
  out.kind = inode.kind;
  out.origin = Origin::kHost;
  out.mode = inode.mode;
  out.uid = inode.uid;
  out.gid = inode.gid;
  out.mtime = inode.mtime;
  out.size = inode.size;
  out.target = inode.target;
  return out;
}

class StageCopy {
 public:
  StageCopy(const Tree& from, Tree& to) : from_(from), to_(to) {}

  Outcome<> copy(InodeId id, const std::string& target) {
    std::vector<std::pair<InodeId, std::string>> todo{{id, target}};
    while (!todo.empty()) {
      POSTERN_TRY(check_interrupt());
      const auto [source, path] = std::move(todo.back());
      todo.pop_back();
      const Inode& inode = from_[source];
      POSTERN_TRY_ASSIGN(const std::vector<std::string> components, split_path(path));
      if (!components.empty()) {
        POSTERN_TRY_ASSIGN(const InodeId made, to_.put(components, copy_of(inode), kFilesLayer));
        sources_[made] = source;
      }
      if (inode.kind == Kind::kDirectory) {
        for (const auto& [name, entry] : *inode.children) {
          todo.emplace_back(entry.inode, path + "/" + name);
        }
      }
    }
    return {};
  }

  [[nodiscard]] InodeId source_of(InodeId made) const {
    const auto found = sources_.find(made);
    return found == sources_.end() ? Tree::kNone : found->second;
  }

 private:
  const Tree& from_;
  Tree& to_;
  std::unordered_map<InodeId, InodeId> sources_;
};

bool is_directory_in(const Tree& tree, const std::string& path) {
  const Inode* const inode = tree.find(path);
  return inode != nullptr && inode->kind == Kind::kDirectory;
}

}  // namespace

Outcome<> copy_from_stage(const std::string& from, const std::string& to, const FileCopy& copy) {
  POSTERN_TRY_ASSIGN(const std::unique_ptr<Source> source, directory_source(from, {}));
  POSTERN_TRY_ASSIGN(const Tree tree, source->index());
  POSTERN_TRY_ASSIGN(const std::unique_ptr<Source> target_source, directory_source(to, {}));
  POSTERN_TRY_ASSIGN(Tree target, target_source->index());
  POSTERN_TRY_ASSIGN(const std::vector<std::string> pattern, split_path(copy.from));
  const std::vector<std::string> found = matches(tree, pattern);
  StageCopy work(tree, target);
  bool any = false;
  for (const std::string& path : found) {
    const InodeId id = tree.find_id(path);
    if (id == Tree::kNone) {
      continue;  // a link to nowhere
    }
    any = true;
    std::string place = copy.to.empty() ? path : copy.to;
    if (!copy.to.empty() &&
        (found.size() > 1 || place.ends_with('/') || is_directory_in(target, place))) {
      place += "/" + name_of(path);
    }
    message::info("Copying " + path + " to " + place);
    POSTERN_TRY(work.copy(id, place));
  }
  if (!any) {
    return Problem{.what = "%files from " + copy.stage + ": '" + copy.from + "' is not there"};
  }
  std::unordered_map<InodeId, std::string> paths;
  tree.walk([&](const std::string& path, InodeId id) { paths.emplace(id, path); });
  const UniqueFd root(::open(from.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  target.finish();
  return write_additions(
      target,
      [&](InodeId made) -> Outcome<UniqueFd> {
        const std::string& path = paths[work.source_of(made)];
        UniqueFd fd = open_beneath(root.get(), path, O_RDONLY | O_NONBLOCK);
        if (!fd.valid()) {
          return system_problem("reading '" + path + "' of the stage", errno);
        }
        return fd;
      },
      to);
}

}  // namespace postern::imagebuild
