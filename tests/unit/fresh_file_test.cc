#include "policy/path/fresh_file.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include <sys/stat.h>

#include <doctest/doctest.h>
#include <unistd.h>

#include "policy/write_problem.h"
#include "tests/unit/temporary_directory.h"

namespace postern::path {
namespace {

std::string text_of(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::size_t entries(const std::string& directory) {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator(directory), {}));
}

Outcome<FreshFile> written(const std::string& path, const std::string& text) {
  auto file = FreshFile::create(path, 0640);
  REQUIRE(file);
  REQUIRE(::write(file->fd(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  return file;
}

TEST_CASE("a fresh file has no name before it is placed") {
  const TemporaryDirectory top;
  const std::string path = top.path + "/file";
  {
    auto file = written(path, "new");
    CHECK(entries(top.path) == 0);
  }
  CHECK(entries(top.path) == 0);
  auto file = written(path, "new");
  REQUIRE(file->place());
  CHECK(text_of(path) == "new");
  CHECK(entries(top.path) == 1);
  struct stat status{};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  const mode_t mask = ::umask(0);
  ::umask(mask);
  CHECK((status.st_mode & 0777) == (0640 & ~mask));
}

TEST_CASE("it replaces what is there, if that is wanted") {
  const TemporaryDirectory top;
  const std::string path = top.path + "/file";
  std::ofstream(path) << "old";
  auto second = written(path, "second");
  CHECK(text_of(path) == "old");
  const auto refused = second->place_new();
  REQUIRE_FALSE(refused);
  CHECK(refused.error().what.find("File exists") != std::string::npos);
  CHECK(text_of(path) == "old");
  REQUIRE(second->place());
  CHECK(text_of(path) == "second");
  CHECK(entries(top.path) == 1);
}

TEST_CASE("what is no file is not replaced, and a missing directory is said") {
  const TemporaryDirectory top;
  std::filesystem::create_directory(top.path + "/directory");
  CHECK_FALSE(FreshFile::create(top.path + "/directory", 0600));
  CHECK_FALSE(FreshFile::create(top.path + "/", 0600));
  const auto missing = FreshFile::create(top.path + "/none/file", 0600);
  REQUIRE_FALSE(missing);
  CHECK(missing.error().what.find("none") != std::string::npos);
}

TEST_CASE("a file system that is full or broken has its own cure") {
  const std::string elsewhere = "choose another place";
  CHECK(write_problem("writing x", ENOSPC, elsewhere).cure == "make room, or choose another place");
  CHECK(write_problem("writing x", EDQUOT, elsewhere).cure == "make room, or choose another place");
  CHECK(write_problem("writing x", EIO, elsewhere).cure.find("checked, or choose") !=
        std::string::npos);
  CHECK(write_problem("writing x", EACCES, elsewhere).cure == elsewhere);
  CHECK(write_problem("writing x", ENOSPC, elsewhere).what == "writing x: No space left on device");
}

}  // namespace
}  // namespace postern::path
