#include "frontend/transfer/output.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <vector>

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/interrupt.h"
#include "policy/path/fresh_file.h"
#include "policy/write_problem.h"

namespace postern::transfer {
namespace {

constexpr std::size_t kPiece = std::size_t{16} << 20;

Problem unwritable(const std::string& path, int error) {
  return write_problem("writing '" + path + "'", error, "choose another place");
}

// COMPAT: kernels and file systems that cannot copy inside the kernel.
Outcome<> copy_piecewise(int from, int to, const std::string& path) {
  std::vector<char> piece(std::size_t{1} << 20);
  for (off_t at = 0;;) {
    POSTERN_TRY(imagebuild::check_interrupt());
    const ssize_t got = ::pread(from, piece.data(), piece.size(), at);
    if (got < 0) {
      return system_problem("reading the image", errno);
    }
    if (got == 0) {
      return Ok{};
    }
    for (ssize_t done = 0; done < got;) {
      const ssize_t put =
          ::pwrite(to, piece.data() + done, static_cast<std::size_t>(got - done), at + done);
      if (put <= 0) {
        return unwritable(path, errno);
      }
      done += put;
    }
    at += got;
  }
}

Outcome<> copy_bytes(int from, int to, const std::string& path) {
  if (::ioctl(to, FICLONE, from) == 0) {
    return Ok{};
  }
  off_t in = 0;
  off_t out = 0;
  while (true) {
    POSTERN_TRY(imagebuild::check_interrupt());
    const ssize_t done = ::copy_file_range(from, &in, to, &out, kPiece, 0);
    if (done < 0 && in == 0) {
      return copy_piecewise(from, to, path);
    }
    if (done < 0) {
      return unwritable(path, errno);
    }
    if (done == 0) {
      return Ok{};
    }
  }
}

}  // namespace

Outcome<> copy_out(int from, const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) {
    return Problem{.what = "'" + path + "' is a directory", .cure = "name a file"};
  }
  POSTERN_TRY_ASSIGN(path::FreshFile file, path::FreshFile::create(path, 0777));
  POSTERN_TRY(copy_bytes(from, file.fd(), path));
  return file.place();
}

std::string size_text(std::uint64_t bytes) {
  constexpr std::array<const char*, 4> kUnits = {"KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.2f %s", value, kUnits[unit]);
  return text.data();
}

}  // namespace postern::transfer
