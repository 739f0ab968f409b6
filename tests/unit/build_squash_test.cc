#include <memory>
#include <string>
#include <string_view>

#include <sys/mman.h>
#include <sys/stat.h>

#include <doctest/doctest.h>

#include "frontend/imagebuild/squash_writer.h"
#include "frontend/imagebuild/tree.h"
#include "frontend/message/progress.h"
#include "frontend/squashfs/extent.h"
#include "frontend/squashfs/image.h"
#include "frontend/squashfs/path_reader.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {
namespace {

// All files of the tree are literal.
class NoSource final : public Source {
 public:
  Outcome<Tree> index() override { return Tree(); }

  Outcome<> stream(Tree& /*tree*/, ContentSink& /*to*/, message::Progress& /*shown*/) override {
    return Ok{};
  }

  [[nodiscard]] std::uint64_t bytes() const override { return 0; }

  Outcome<std::string> head(const Tree& /*tree*/, InodeId /*file*/, std::size_t /*most*/) override {
    return std::string{};
  }
};

void put(Tree& tree, std::string_view path, std::size_t bytes) {
  Inode inode;
  inode.mode = 0644;
  inode.origin = Origin::kLiteral;
  inode.captured.assign(bytes, path.back());
  inode.size = bytes;
  REQUIRE(tree.put(*split_path(path), std::move(inode), 0));
}

TEST_CASE("what every start reads lies in blocks of its own, and other small files share theirs") {
  Tree tree;
  put(tree, "etc/passwd", 1000);
  put(tree, "etc/group", 40 << 10);  // too long for it
  put(tree, "etc/hosts", 100);
  put(tree, ".singularity.d/env/10-a.sh", 200);
  put(tree, ".singularity.d/labels.json", 200);
  tree.finish();
  const UniqueFd file(::memfd_create("image", MFD_CLOEXEC));
  NoSource source;
  message::Progress progress("", 0);
  const auto written = write_squashfs(tree, source, {}, file.get(), 0, progress);
  REQUIRE(written);

  const squashfs::Extent extent(file.get(), 0, *written);
  const auto image = squashfs::Image::open(extent, {.data = 4 << 20, .metadata = 1 << 20});
  REQUIRE(image);
  squashfs::PathReader paths(**image);
  const auto is_apart = [&](const char* path, std::size_t bytes) {
    const auto inode = paths.resolve(path);
    REQUIRE(inode);
    const auto text = paths.bytes(*inode, 1 << 20);
    REQUIRE(text);
    CHECK(*text == std::string(bytes, std::string_view(path).back()));
    return inode->fragment == squashfs::kNoFragment;
  };
  CHECK(is_apart("/etc/passwd", 1000));
  CHECK(is_apart("/.singularity.d/env/10-a.sh", 200));
  CHECK_FALSE(is_apart("/etc/group", 40 << 10));
  CHECK_FALSE(is_apart("/etc/hosts", 100));
  CHECK_FALSE(is_apart("/.singularity.d/labels.json", 200));
}

}  // namespace
}  // namespace postern::imagebuild
