// Decodes what a start reads before the kernel asks for it. Nearly every start reads the accounts,
// the environment scripts, a program, the dynamic loader and the C library, and each of them would
// wait for its blocks in turn; meanwhile another processor has nothing to do. What is decoded lies
// in the image's caches, where an answer finds it. Nothing depends on it: a wrong guess costs time
// of that processor alone, and an error is met again by who really wants the bytes.
#pragma once

#include <atomic>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "frontend/squashfs/path_reader.h"

namespace postern::squashfs {

class WarmUp {
 public:
  // `program`: a path in the image, or a name to search for as a shell would; "": not known.
  WarmUp(Image& image, std::string program) noexcept
      : image_(image), program_(std::move(program)) {}

  // Until all is decoded, or stop() was called by another thread.
  void run() noexcept;

  void stop() noexcept { stopped_.store(true, std::memory_order_relaxed); }

  // Not at its end yet. A hint: from any thread.
  [[nodiscard]] bool running() const noexcept { return running_.load(std::memory_order_relaxed); }

 private:
  void account_files(PathReader& paths) noexcept;
  void mount_points(PathReader& paths) noexcept;
  void scripts(PathReader& paths) noexcept;
  void executables(PathReader& paths) noexcept;
  // The file's first blocks, about `most_bytes`. False: there is no such file.
  bool decode(PathReader& paths, const std::string& path, std::size_t most_bytes) noexcept;

  [[nodiscard]] bool stopped() const noexcept { return stopped_.load(std::memory_order_relaxed); }

  Image& image_;
  const std::string program_;
  std::vector<DataBlock> blocks_;
  std::atomic<bool> stopped_ = false;
  std::atomic<bool> running_ = false;
};

}  // namespace postern::squashfs
