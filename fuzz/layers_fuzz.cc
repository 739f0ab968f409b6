// Tar archives and layers with whiteouts, merged to a tree and read again: whatever is accepted is
// a tree whose names have no way out, and every file's bytes arrive whole.
#include <string>
#include <vector>

#include <sys/mman.h>

#include <unistd.h>

#include "frontend/imagebuild/layers.h"
#include "frontend/imagebuild/source.h"
#include "frontend/message/message.h"
#include "frontend/message/progress.h"
#include "fuzz/target.h"
#include "protocol/base/unique_fd.h"

namespace {

namespace build = postern::imagebuild;

// A member may claim a hole of a tebibyte: the sink counts, and keeps nothing.
class Count final : public build::ContentSink {
 public:
  explicit Count(const build::Tree& tree) : tree_(tree) {}

  postern::Outcome<> begin(build::InodeId file) override {
    file_ = file;
    bytes_ = 0;
    return postern::Ok{};
  }

  postern::Outcome<> append(std::span<const std::byte> bytes) override {
    bytes_ += bytes.size();
    return postern::Ok{};
  }

  postern::Outcome<> hole(std::uint64_t bytes) override {
    bytes_ += bytes;
    return postern::Ok{};
  }

  postern::Outcome<> end() override {
    if (bytes_ != tree_[file_].size) {
      __builtin_trap();
    }
    return postern::Ok{};
  }

 private:
  const build::Tree& tree_;
  build::InodeId file_ = 0;
  std::uint64_t bytes_ = 0;
};

void check_names(const build::Tree& tree) {
  tree.walk([&](const std::string& path, build::InodeId id) {
    const bool sane = path.find('\0') == std::string::npos && !path.starts_with('/') &&
                      ("/" + path + "/").find("/../") == std::string::npos && id < tree.size();
    if (!sane) {
      __builtin_trap();
    }
  });
}

}  // namespace

// The bytes behind the first NUL NUL form feed are a second layer.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  postern::message::configure(postern::message::Level::kFatal, false);
  const std::string_view all(reinterpret_cast<const char*>(data), size);  // SAFETY: bytes are chars
  const auto cut = all.find(std::string_view("\0\0\f", 3));
  const std::uint64_t first = cut == all.npos ? size : cut;
  const postern::UniqueFd file(::memfd_create("layers", MFD_CLOEXEC));
  if (::write(file.get(), data, size) != static_cast<ssize_t>(size)) {
    return 0;
  }
  std::vector<build::Layer> layers = {
      {.fd = file.get(), .offset = 0, .size = first, .name = "one"}};
  if (cut != all.npos) {
    layers.push_back({.fd = file.get(), .offset = cut + 3, .size = size - cut - 3, .name = "two"});
  }
  for (const bool whiteouts : {true, false}) {
    const auto source = build::layer_source(layers, {.whiteouts = whiteouts});
    auto tree = source->index();
    if (!tree) {
      continue;
    }
    check_names(*tree);
    tree->finish();
    Count sink(*tree);
    postern::message::Progress progress("", source->bytes());
    static_cast<void>(source->stream(*tree, sink, progress).has_value());
  }
  return 0;
}
