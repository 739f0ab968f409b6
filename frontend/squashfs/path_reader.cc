#include "frontend/squashfs/path_reader.h"

#include <algorithm>
#include <cerrno>
#include <vector>

#include <sys/stat.h>

namespace postern::squashfs {
namespace {

constexpr unsigned kMaxLinks = 40;
constexpr std::size_t kMaxPathBytes = 65536;  // with the texts of links put in

}  // namespace

Read<Inode> PathReader::resolve(std::string path) noexcept {
  std::vector<InodeId> parents{reader_.root()};
  for (unsigned links = 0;;) {
    const std::size_t start = path.find_first_not_of('/');
    if (start == std::string::npos) {
      return reader_.inode(parents.back());
    }
    const std::size_t end = std::min(path.find('/', start), path.size());
    const std::string name = path.substr(start, end - start);
    path.erase(0, end);
    if (name == "." || name == "..") {
      if (name == ".." && parents.size() > 1) {
        parents.pop_back();
      }
      continue;
    }
    POSTERN_TRY_ASSIGN(const Inode directory, reader_.inode(parents.back()));
    if (!S_ISDIR(directory.mode)) {
      return Errno{ENOTDIR};
    }
    Entry entry{};
    POSTERN_TRY_ASSIGN(const bool found, reader_.find_entry(directory, name, entry));
    if (!found) {
      return Errno{ENOENT};
    }
    POSTERN_TRY_ASSIGN(const Inode inode, reader_.inode(entry.inode));
    if (!S_ISLNK(inode.mode)) {
      parents.push_back(entry.inode);
      continue;
    }
    POSTERN_TRY_ASSIGN(const std::string target, reader_.link_text(inode));
    if (++links > kMaxLinks || path.size() + target.size() > kMaxPathBytes) {
      return Errno{ELOOP};
    }
    if (target.starts_with('/')) {
      parents.resize(1);
    }
    path.insert(0, target);
  }
}

Read<std::string> PathReader::bytes(const Inode& file, std::uint64_t max_bytes) noexcept {
  if (file.size > max_bytes) {
    return Errno{EFBIG};
  }
  std::vector<DataBlock> blocks;
  POSTERN_TRY(reader_.blocks(file, 0, file.size / image_.super().block_size + 1, blocks));
  std::string text;
  for (const DataBlock& block : blocks) {
    if (block.length > max_bytes - text.size()) {
      return Errno{EFBIG};
    }
    if (block.hole()) {
      text.append(block.length, '\0');
      continue;
    }
    POSTERN_TRY_ASSIGN(const BlockCache::Pin data, reader_.data(block));
    const auto part = data.bytes().subspan(block.offset, block.length);
    // SAFETY: bytes, as characters.
    text.append(reinterpret_cast<const char*>(part.data()), part.size());
  }
  return text;
}

}  // namespace postern::squashfs
