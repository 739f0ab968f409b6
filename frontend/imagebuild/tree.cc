#include "frontend/imagebuild/tree.h"

#include <algorithm>
#include <utility>

namespace postern::imagebuild {
namespace {

constexpr int kMaxLinksFollowed = 40;  // path_resolution(7): ELOOP after 40
constexpr std::string_view kWhiteout = ".wh.";
constexpr std::string_view kWhiteoutMeta = ".wh..wh.";
constexpr std::string_view kOpaque = ".wh..wh..opq";

Inode implied_directory() {
  Inode inode;
  inode.kind = Kind::kDirectory;
  inode.mode = 0755;
  inode.children = std::make_unique<Children>();
  return inode;
}

std::string joined(const std::vector<std::string>& components) {
  std::string path;
  for (const std::string& component : components) {
    path += '/';
    path += component;
  }
  return path.empty() ? "/" : path;
}

// Components of a symbolic link's target, last one first, pushed on `todo`.
void push_target(std::vector<std::string>& todo, std::string_view target) {
  std::vector<std::string> parts;
  while (!target.empty()) {
    const std::size_t slash = target.find('/');
    const std::string_view part = target.substr(0, slash);
    if (!part.empty() && part != ".") {
      parts.emplace_back(part);
    }
    target.remove_prefix(slash == std::string_view::npos ? target.size() : slash + 1);
  }
  todo.insert(todo.end(), std::make_move_iterator(parts.rbegin()),
              std::make_move_iterator(parts.rend()));
}

}  // namespace

Outcome<std::vector<std::string>> split_path(std::string_view path) {
  std::vector<std::string> components;
  const std::string_view whole = path;
  if (path.find('\0') != std::string_view::npos) {
    return Problem{.what = "a name in the archive contains a NUL byte"};
  }
  while (!path.empty()) {
    const std::size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    path.remove_prefix(slash == std::string_view::npos ? path.size() : slash + 1);
    if (part.empty() || part == ".") {
      continue;
    }
    if (part == "..") {
      return Problem{.what = "'" + std::string(whole) + "' climbs out of its directory by '..'",
                     .cure = "no image needs such a name: do not trust this archive"};
    }
    if (part.size() > kMaxName) {
      return Problem{.what = "the name '" + std::string(part.substr(0, 40)) + "...' has " +
                             std::to_string(part.size()) + " bytes; file systems take " +
                             std::to_string(kMaxName)};
    }
    if (components.size() == kMaxDepth) {
      return Problem{.what = "'" + std::string(whole.substr(0, 60)) + "...' is more than " +
                             std::to_string(kMaxDepth) + " directories deep"};
    }
    components.emplace_back(part);
  }
  return components;
}

bool captures(const std::vector<std::string>& components) {
  if (components.size() >= 2 && components[0] == ".singularity.d") {
    return components[1] != "bootstrap_history";
  }
  return components.size() >= 5 && components[0] == "scif" && components[1] == "apps" &&
         components[3] == "scif";
}

Tree::Tree(std::size_t most) : most_(most) {
  inodes_.push_back(implied_directory());
}

namespace {

// Of an entry of a directory: the text, and std::map's node (value, three links and a colour).
std::size_t name_cost(std::string_view name) {
  return name.size() + sizeof(Children::value_type) + 4 * sizeof(void*);
}

}  // namespace

// A few compressed bytes can stand for very many of these.
Outcome<> Tree::charge(std::size_t bytes) {
  metadata_ += bytes;
  if (metadata_ > most_) {
    return Problem{.what = "the table of the image's files (" + std::to_string(inodes_.size()) +
                           " so far) takes more than " + std::to_string(most_ >> 20) +
                           " MiB of memory",
                   .cure =
                       "if you trust it: keep data out of the image and bind it, or put it "
                       "into a data image of its own"};
  }
  return {};
}

Outcome<InodeId> Tree::add_inode(Inode inode) {
  std::size_t bytes = sizeof(Inode) + inode.target.size() + inode.captured.size();
  for (const Attribute& attribute : inode.attributes) {
    bytes += attribute.name.size() + attribute.value.size();
  }
  POSTERN_TRY(charge(bytes));
  if (inode.kind == Kind::kDirectory && !inode.children) {
    inode.children = std::make_unique<Children>();
  }
  inodes_.push_back(std::move(inode));
  return static_cast<InodeId>(inodes_.size() - 1);
}

void Tree::enter(InodeId directory, std::string name, InodeId id, std::uint32_t layer) {
  inodes_[directory].children->insert_or_assign(std::move(name), Entry{id, layer});
}

void Tree::remove(InodeId directory, std::string_view name) {
  Children& children = *inodes_[directory].children;
  if (const auto found = children.find(name); found != children.end()) {
    children.erase(found);
  }
}

InodeId Tree::child(InodeId directory, std::string_view name) const {
  const Inode& inode = inodes_[directory];
  if (inode.kind != Kind::kDirectory) {
    return kNone;
  }
  const auto found = inode.children->find(name);
  return found == inode.children->end() ? kNone : found->second.inode;
}

Outcome<InodeId> Tree::directory_at(const std::vector<std::string>& components,
                                    std::uint32_t layer,
                                    bool make) {
  // Links are followed here, in the tree, so that a link to /etc means the image's /etc: archives
  // with merged /usr rely on it, and the host's paths are not in reach at all.
  std::vector<InodeId> way{root()};
  std::vector<std::string> todo(components.rbegin(), components.rend());
  int followed = 0;
  while (!todo.empty()) {
    const std::string name = std::move(todo.back());
    todo.pop_back();
    if (name == "..") {
      if (way.size() > 1) {
        way.pop_back();
      }
      continue;
    }
    Children& children = *inodes_[way.back()].children;
    const auto found = children.find(name);
    if (found != children.end()) {
      const Inode& inode = inodes_[found->second.inode];
      if (inode.kind == Kind::kDirectory) {
        if (make) {
          found->second.layer = layer;
        }
        way.push_back(found->second.inode);
        continue;
      }
      if (inode.kind == Kind::kSymlink) {
        if (++followed > kMaxLinksFollowed) {
          return Problem{.what = "'" + joined(components) + "' leads through a loop of links"};
        }
        if (inode.target.starts_with('/')) {
          way.resize(1);
        }
        push_target(todo, inode.target);
        continue;
      }
    }
    if (!make) {
      return kNone;
    }
    if (name.size() > kMaxName || way.size() > kMaxDepth) {
      return Problem{.what = "'" + joined(components) +
                             "' leads through a link to a name that is too long"};
    }
    POSTERN_TRY(charge(name_cost(name)));
    POSTERN_TRY_ASSIGN(const InodeId made, add_inode(implied_directory()));
    enter(way.back(), name, made, layer);
    way.push_back(made);
  }
  return way.back();
}

Outcome<InodeId> Tree::put(const std::vector<std::string>& path, Inode inode, std::uint32_t layer) {
  if (path.empty()) {
    if (inode.kind != Kind::kDirectory) {
      return Problem{.what = "an entry replaces the root directory by something else",
                     .cure = "no image needs this: do not trust this archive"};
    }
    inode.children = std::move(inodes_[root()].children);
    inodes_[root()] = std::move(inode);
    return root();
  }
  POSTERN_TRY(charge(name_cost(path.back())));
  POSTERN_TRY_ASSIGN(const InodeId parent,
                     directory_at({path.begin(), path.end() - 1}, layer, true));
  const InodeId present = child(parent, path.back());
  if (present != kNone && inode.kind == Kind::kDirectory &&
      inodes_[present].kind == Kind::kDirectory) {
    inode.children = std::move(inodes_[present].children);
    inodes_[present] = std::move(inode);
    enter(parent, path.back(), present, layer);
    return present;
  }
  POSTERN_TRY_ASSIGN(const InodeId id, add_inode(std::move(inode)));
  enter(parent, path.back(), id, layer);
  return id;
}

Outcome<> Tree::link(const std::vector<std::string>& path,
                     const std::vector<std::string>& target,
                     std::uint32_t layer) {
  const auto refuse = [&](const char* why) {
    return Problem{.what = "hard link '" + joined(path) + "' to '" + joined(target) + "': " + why};
  };
  if (path.empty() || target.empty()) {
    return refuse("the root directory cannot be linked");
  }
  POSTERN_TRY_ASSIGN(const InodeId from,
                     directory_at({target.begin(), target.end() - 1}, layer, false));
  const InodeId id = from == kNone ? kNone : child(from, target.back());
  if (id == kNone) {
    return refuse("the target is not in the image");
  }
  if (inodes_[id].kind == Kind::kDirectory) {
    return refuse("the target is a directory");
  }
  POSTERN_TRY(charge(name_cost(path.back())));
  POSTERN_TRY_ASSIGN(const InodeId parent,
                     directory_at({path.begin(), path.end() - 1}, layer, true));
  enter(parent, path.back(), id, layer);
  return {};
}

void Tree::prune_below(InodeId directory, std::uint32_t layer) {
  std::vector<InodeId> todo{directory};
  while (!todo.empty()) {
    Children& children = *inodes_[todo.back()].children;
    todo.pop_back();
    for (auto entry = children.begin(); entry != children.end();) {
      if (entry->second.layer < layer) {
        entry = children.erase(entry);
        continue;
      }
      if (inodes_[entry->second.inode].kind == Kind::kDirectory) {
        todo.push_back(entry->second.inode);
      }
      ++entry;
    }
  }
}

Outcome<bool> Tree::apply_whiteout(const std::vector<std::string>& path, std::uint32_t layer) {
  if (path.empty() || !path.back().starts_with(kWhiteout)) {
    return false;
  }
  const std::string& mark = path.back();
  if (mark.starts_with(kWhiteoutMeta) && mark != kOpaque) {
    return true;  // bookkeeping of AUFS: means nothing outside it
  }
  POSTERN_TRY_ASSIGN(const InodeId parent,
                     directory_at({path.begin(), path.end() - 1}, layer, false));
  if (mark == kOpaque) {
    if (parent != kNone) {
      prune_below(parent, layer);
    }
    return true;
  }
  const std::string name = mark.substr(kWhiteout.size());
  if (name.empty() || name == "." || name == "..") {
    return Problem{.what = "whiteout '" + joined(path) + "' does not name a file"};
  }
  if (parent == kNone) {
    return true;
  }
  Children& children = *inodes_[parent].children;
  const auto found = children.find(name);
  if (found == children.end()) {
    return true;
  }
  // A whiteout hides what lies below its own layer, wherever it stands in the archive.
  if (found->second.layer < layer) {
    children.erase(found);
  } else if (inodes_[found->second.inode].kind == Kind::kDirectory) {
    prune_below(found->second.inode, layer);
  }
  return true;
}

InodeId Tree::find_id(std::string_view path, bool follow) const {
  std::vector<InodeId> way{root()};
  std::vector<std::string> todo;
  push_target(todo, path);
  int followed = 0;
  while (!todo.empty()) {
    const std::string name = std::move(todo.back());
    todo.pop_back();
    if (name == "..") {
      if (way.size() > 1) {
        way.pop_back();
      }
      continue;
    }
    const InodeId next = child(way.back(), name);
    if (next == kNone) {
      return kNone;
    }
    if (inodes_[next].kind == Kind::kSymlink && (follow || !todo.empty())) {
      if (++followed > kMaxLinksFollowed) {
        return kNone;
      }
      if (inodes_[next].target.starts_with('/')) {
        way.resize(1);
      }
      push_target(todo, inodes_[next].target);
      continue;
    }
    way.push_back(next);
  }
  return way.back();
}

const Inode* Tree::find(std::string_view path, bool follow) const {
  const InodeId id = find_id(path, follow);
  return id == kNone ? nullptr : &inodes_[id];
}

void Tree::walk(const std::function<void(const std::string& path, InodeId id)>& visit) const {
  struct Level {
    InodeId directory;
    Children::const_iterator next;
    std::size_t path_length;
  };

  std::vector<bool> seen(inodes_.size());
  std::string path;
  visit(path, root());
  std::vector<Level> levels{{root(), inodes_[root()].children->begin(), 0}};
  while (!levels.empty()) {
    Level& level = levels.back();
    path.resize(level.path_length);
    if (level.next == inodes_[level.directory].children->end()) {
      levels.pop_back();
      continue;
    }
    const auto& [name, entry] = *level.next++;
    if (seen[entry.inode]) {
      continue;
    }
    seen[entry.inode] = true;
    if (!path.empty()) {
      path += '/';
    }
    path += name;
    visit(path, entry.inode);
    if (inodes_[entry.inode].kind == Kind::kDirectory) {
      levels.push_back({entry.inode, inodes_[entry.inode].children->begin(), path.size()});
    }
  }
}

std::size_t Tree::finish() {
  for (Inode& inode : inodes_) {
    inode.links = 0;
  }
  std::size_t used = 0;
  std::vector<InodeId> todo{root()};
  inodes_[root()].links = 1;
  while (!todo.empty()) {
    const InodeId directory = todo.back();
    todo.pop_back();
    ++used;
    for (const auto& [name, entry] : *inodes_[directory].children) {
      Inode& inode = inodes_[entry.inode];
      if (++inode.links == 1) {
        if (inode.kind == Kind::kDirectory) {
          todo.push_back(entry.inode);
        } else {
          ++used;
        }
      }
    }
  }
  return used;
}

}  // namespace postern::imagebuild
