#define OPENSSL_SUPPRESS_DEPRECATED
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <sys/mman.h>
#include <sys/stat.h>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <unistd.h>

#include "frontend/squashfs/block_cache.h"
#include "frontend/squashfs/crew.h"
#include "frontend/squashfs/extent.h"
#include "frontend/squashfs/options.h"
#include "frontend/squashfs/path_reader.h"
#include "frontend/squashfs/verity.h"
#include "frontend/squashfs/warm_up.h"
#include "protocol/base/unique_fd.h"
#include "tests/unit/in_child.h"

namespace postern::squashfs {
namespace {

TEST_SUITE_BEGIN("squashfs");

// --- options -------------------------------------------------------------------------------------

Outcome<Options> parse(std::vector<std::string> words) {
  std::vector<char*> arguments;
  for (std::string& word : words) {
    arguments.push_back(word.data());
  }
  return parse_options(arguments);
}

std::vector<std::string> with(std::vector<std::string> more) {
  std::vector<std::string> words = {"--fuse-fd", "4", "--image-fd", "5", "--size", "8192"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST_CASE("the command line's every word is checked") {
  const std::string root(64, 'a');
  const std::string seal = root + ":00ff:2:8192:4096";
  const auto good = parse(with({"--verity", seal, "--owner", "7:8", "--threads", "3", "--key-fd",
                                "6", "--crypt", "4096:4096:4096:9", "--offset", "512"}));
  REQUIRE(good);
  CHECK(good->seal->salt == std::vector<std::uint8_t>{0, 0xff});
  CHECK(good->seal->root[31] == 0xaa);
  CHECK(good->owner->gid == 8);
  CHECK(good->crypt->iv_offset == 9);
  CHECK(good->offset == 512);

  const std::vector<std::vector<std::string>> bad = {
      {},
      {"--fuse-fd", "4"},
      with({"--threads"}),
      with({"--threads", "0"}),
      with({"--threads", "65"}),
      with({"--nonsense", "1"}),
      with({"--fuse-fd", "2"}),  // a standard descriptor
      with({"--size", "-1"}),
      with({"--size", "8192x"}),
      with({"--size", "18446744073709551615"}),
      with({"--owner", "7"}),
      with({"--owner", "4294967295:0"}),
      with({"--verity", root + ":00f:2:8192:4096"}),  // half a byte
      with({"--verity", root + "a:00:2:8192:4096"}),
      with({"--verity", root + ":00:2:8192"}),
      with({"--verity", root + ":00:2:8192:4096:1"}),
      with({"--verity", root + ":00:3:8192:4096"}),  // three blocks of an image of two
      with({"--verity", root + ":" + std::string(514, '0') + ":2:8192:4096"}),
      with({"--key-fd", "6"}),                // a key and nothing to decrypt
      with({"--crypt", "4096:4096:4096:9"}),  // and the other way round
      with({"--key-fd", "6", "--crypt", "1024:0:4096:0"}),
      with({"--key-fd", "6", "--crypt", "4096:512:4096:0"}),
      with({"--key-fd", "6", "--crypt", "4096:4096:8192:0"}),
      with({"--key-fd", "6", "--crypt", "512:0:0:0"}),
  };
  for (const auto& words : bad) {
    CAPTURE(words.empty() ? "" : words.back());
    CHECK_FALSE(parse(words));
  }
}

// --- the cache -----------------------------------------------------------------------------------

struct CountingDecoder : BlockCache::Decoder {
  Read<BlockCache::Decoded> decode(const BlockKey& key,
                                   std::span<std::byte> slot) noexcept override {
    ++calls;
    if (delay_ms > 0) {
      ::usleep(delay_ms * 1000U);
    }
    if (error != 0) {
      return Errno{error};
    }
    slot[0] = static_cast<std::byte>(key.position);
    return BlockCache::Decoded{1, key.word};
  }

  std::atomic<int> calls = 0;
  unsigned delay_ms = 0;
  int error = 0;
};

TEST_CASE("a block is decoded once, however many threads want it at once") {
  BlockCache cache(4096, 4);
  CountingDecoder decoder;
  decoder.delay_ms = 50;
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      const auto pin = cache.get({7, 1}, decoder);
      right += pin && pin->bytes()[0] == std::byte{7} ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK(decoder.calls == 1);
  CHECK(right == 8);
}

TEST_CASE("the cache replaces what was used longest ago, cold blocks first, and never a held one") {
  BlockCache cache(4096, 3);
  CountingDecoder decoder;
  const auto touch = [&](std::uint64_t position) { CHECK(cache.get({position, 1}, decoder)); };
  touch(1);
  touch(2);
  touch(3);
  touch(1);
  touch(4);  // replaces 2
  CHECK(cache.contains({1, 1}));
  CHECK_FALSE(cache.contains({2, 1}));
  {
    auto cold = cache.get({1, 1}, decoder);
    REQUIRE(cold);
    cold->mark_cold();
  }
  touch(5);  // replaces 1, although it was used last
  CHECK_FALSE(cache.contains({1, 1}));
  CHECK(cache.contains({3, 1}));
  std::vector<BlockCache::Pin> held;
  for (const std::uint64_t position : {11U, 12U, 13U, 14U, 15U}) {  // more than there are slots
    auto pin = cache.get({position, 1}, decoder);
    REQUIRE(pin);
    held.push_back(*std::move(pin));
  }
  for (std::size_t i = 0; i < held.size(); ++i) {
    CHECK(held[i].bytes()[0] == static_cast<std::byte>(11 + i));
  }
  CHECK(cache.contains({15, 1}));
  held.clear();
  CHECK_FALSE(cache.contains({15, 1}));  // it had no slot
  CHECK(cache.contains({11, 1}));
}

TEST_CASE("one place with two lengths is two blocks") {
  BlockCache cache(4096, 4);
  CountingDecoder decoder;
  const auto one = cache.get({7, 1}, decoder);
  const auto two = cache.get({7, 2}, decoder);
  REQUIRE(one);
  REQUIRE(two);
  CHECK(decoder.calls == 2);
  CHECK(two->note() == 2);
}

TEST_CASE("a failure is reported to those who wait for it, and not kept") {
  BlockCache cache(4096, 2);
  CountingDecoder decoder;
  decoder.error = EIO;
  decoder.delay_ms = 30;
  std::thread other([&] { CHECK_FALSE(cache.get({7, 1}, decoder)); });
  const auto mine = cache.get({7, 1}, decoder);
  other.join();
  REQUIRE_FALSE(mine);
  CHECK(mine.error().number == EIO);
  decoder.error = 0;
  CHECK(cache.get({7, 1}, decoder));
}

// --- the crew ------------------------------------------------------------------------------------

struct Recruits : Crew::Recruiter {
  bool recruit() noexcept override {
    ++count;
    return true;
  }

  int count = 0;
};

TEST_CASE("threads are started when somebody else must listen, and not before") {
  Recruits recruits;
  Crew crew(recruits, 3, 2);
  DataBlock block;
  CHECK(recruits.count == 0);
  crew.begin_slow();
  CHECK(recruits.count == 1);
  CHECK(crew.rest(block) == Crew::Task::kListen);  // the recruit
  CHECK_FALSE(crew.end_slow());                    // the first rests now
  crew.begin_slow();                               // the recruit decodes: the first is called
  CHECK(recruits.count == 1);
  CHECK(crew.rest(block) == Crew::Task::kListen);
}

TEST_CASE("where no other thread can be had, the one goes on listening") {
  Recruits recruits;
  Crew crew(recruits, 1, 2);
  crew.begin_slow();
  CHECK(recruits.count == 0);
  CHECK(crew.end_slow());
}

TEST_CASE("reading ahead is for processors that have nothing to do") {
  Recruits recruits;
  Crew crew(recruits, 8, 2);
  DataBlock block;
  crew.read_ahead({{1, 1}, 0, 0});
  crew.read_ahead({{2, 1}, 0, 0});
  crew.read_ahead({{3, 1}, 0, 0});  // dropped: two processors
  CHECK_FALSE(crew.has_time());
  CHECK(recruits.count == 2);
  CHECK(crew.rest(block) == Crew::Task::kReadAhead);
  CHECK(block.key.position == 1);
  CHECK(crew.rest(block) == Crew::Task::kReadAhead);
  CHECK(block.key.position == 2);
  crew.end_read_ahead();
  CHECK(crew.has_time());
  crew.stop();
  CHECK(crew.rest(block) == Crew::Task::kStop);
}

TEST_CASE("a queue of short requests brings more listeners, and its end sends them away") {
  Recruits recruits;
  Crew crew(recruits, 8, 2);
  DataBlock block;
  for (int i = 0; i < 4; ++i) {
    CHECK(crew.report_backlog(true));
  }
  CHECK(recruits.count == 1);
  CHECK(crew.rest(block) == Crew::Task::kListen);
  for (int i = 0; i < 40; ++i) {
    CHECK(crew.report_backlog(true));  // not more than processors
  }
  CHECK(recruits.count == 1);
  int left = 0;
  for (int i = 0; i < 4; ++i) {
    left += crew.report_backlog(false) ? 0 : 1;
  }
  CHECK(left == 1);
}

// --- the seal ------------------------------------------------------------------------------------

using Bytes = std::vector<std::uint8_t>;

// A file of `size` bytes with its tree behind it, made level by level as veritysetup(8) does.
struct Sealed {
  explicit Sealed(std::size_t size) : image(::memfd_create("sealed", MFD_CLOEXEC)) {
    Bytes data(size);
    for (std::size_t i = 0; i < size; ++i) {
      data[i] = static_cast<std::uint8_t>(i * 2654435761U >> 13);
    }
    Bytes padded = data;
    padded.resize((size + 4095) / 4096 * 4096);
    seal.salt = {1, 2, 3};
    seal.data_blocks = padded.size() / 4096;
    std::vector<Bytes> levels = {padded};
    while (levels.back().size() > 4096) {
      levels.push_back(hashes(levels.back()));
    }
    const Bytes root = hash(levels.back().data());
    std::copy(root.begin(), root.end(), seal.root.begin());
    seal.tree_offset = size;
    Bytes file = data;
    for (std::size_t i = levels.size(); i-- > 1;) {
      file.insert(file.end(), levels[i].begin(), levels[i].end());
    }
    seal.tree_bytes = file.size() - size;
    partition = size;
    REQUIRE(::write(image.get(), file.data(), file.size()) == static_cast<ssize_t>(file.size()));
  }

  Bytes hash(const std::uint8_t* block) const {
    Bytes salted = seal.salt;
    salted.insert(salted.end(), block, block + 4096);
    Bytes out(32);
    SHA256(salted.data(), salted.size(), out.data());
    return out;
  }

  Bytes hashes(const Bytes& level) const {
    Bytes out;
    for (std::size_t at = 0; at < level.size(); at += 4096) {
      const Bytes one = hash(level.data() + at);
      out.insert(out.end(), one.begin(), one.end());
    }
    out.resize((out.size() + 4095) / 4096 * 4096);
    return out;
  }

  void flip(std::uint64_t at) const {
    std::uint8_t byte = 0;
    REQUIRE(::pread(image.get(), &byte, 1, static_cast<off_t>(at)) == 1);
    byte ^= 4;
    REQUIRE(::pwrite(image.get(), &byte, 1, static_cast<off_t>(at)) == 1);
  }

  UniqueFd image;
  Seal seal;
  std::size_t partition = 0;
};

TEST_CASE("a sealed extent gives the true bytes or EIO, at every depth of the tree") {
  // One block (no tree at all), two, a full leaf and one more, and three levels; the last cut
  // short.
  for (const std::size_t size :
       {4096UL, 4097UL, 128 * 4096UL, 129 * 4096UL, 128 * 129 * 4096UL + 77}) {
    CAPTURE(size);
    const Sealed sealed(size);
    const auto verity = Verity::make(sealed.image.get(), sealed.seal);
    REQUIRE(verity);
    const Extent extent(sealed.image.get(), 0, size, verity->get());
    Window window;
    for (const std::uint64_t at :
         {std::uint64_t{0}, std::uint64_t{size / 2}, std::uint64_t{size - 100}}) {
      const auto bytes = extent.fetch(at, 100, window);
      REQUIRE(bytes);
      CHECK(bytes->front() ==
            static_cast<std::byte>(static_cast<std::uint8_t>(at * 2654435761U >> 13)));
    }
    CHECK_FALSE(extent.fetch(size - 99, 100, window));
    CHECK((*verity)->complaint().empty());

    sealed.flip(size / 2);
    Window fresh;
    CHECK_FALSE(extent.fetch(size / 2, 1, fresh));
    CHECK((*verity)->complaint().find("block " + std::to_string(size / 2 / 4096) +
                                      " of the image does not") == 0);
  }
}

std::atomic<int> g_reports = 0;

TEST_CASE("the first mismatch is reported, once") {
  const Sealed sealed(8 * 4096);
  const auto verity = Verity::make(sealed.image.get(), sealed.seal);
  REQUIRE(verity);
  (*verity)->report_to([](const std::string& complaint) {
    g_reports += complaint.find("block 2 of the image does not match its seal") == 0 ? 1 : 100;
  });
  const Extent extent(sealed.image.get(), 0, sealed.partition, verity->get());
  sealed.flip(2 * 4096);
  sealed.flip(5 * 4096);
  for (const std::uint64_t block : {2U, 5U, 2U}) {
    Window window;
    CHECK_FALSE(extent.fetch(block * 4096, 1, window));
  }
  CHECK(g_reports == 1);
}

TEST_CASE("a tree that was altered vouches for nothing") {
  const Sealed sealed(130 * 4096);
  for (const std::uint64_t at : {sealed.seal.tree_offset + 9, sealed.seal.tree_offset + 4096 + 9,
                                 sealed.seal.tree_offset + sealed.seal.tree_bytes - 1}) {
    CAPTURE(at);
    sealed.flip(at);
    const auto verity = Verity::make(sealed.image.get(), sealed.seal);
    REQUIRE(verity);
    const Extent extent(sealed.image.get(), 0, sealed.partition, verity->get());
    Window window;
    CHECK_FALSE(extent.fetch(0, sealed.partition, window));
    CHECK((*verity)->complaint().find("hash tree does not match") != std::string::npos);
    sealed.flip(at);
  }
}

TEST_CASE("a tree that is too short for its data is refused") {
  Sealed sealed(130 * 4096);
  sealed.seal.tree_bytes -= 1;
  CHECK_FALSE(Verity::make(sealed.image.get(), sealed.seal));
  sealed.seal.data_blocks = ~0ULL;
  CHECK_FALSE(Verity::make(sealed.image.get(), sealed.seal));
}

TEST_CASE("what was checked is a copy: a file rewritten under the mount cannot slip bytes in") {
  const Sealed sealed(64 * 4096);
  const auto verity = Verity::make(sealed.image.get(), sealed.seal);
  REQUIRE(verity);
  const Extent extent(sealed.image.get(), 0, sealed.partition, verity->get());
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    while (!stop) {
      sealed.flip(5 * 4096 + 17);
    }
  });
  int seen = 0;
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    Window window;
    const auto bytes = extent.fetch(5 * 4096, 4096, window);
    if (bytes) {
      ++seen;
      const std::size_t at = 5 * 4096 + 17;
      REQUIRE((*bytes)[17] ==
              static_cast<std::byte>(static_cast<std::uint8_t>(at * 2654435761U >> 13)));
    } else {
      ++refused;
    }
  }
  stop = true;
  writer.join();
  CHECK(seen + refused == 2000);
}

TEST_CASE("a file that was cut short under the mount gives EIO") {
  const Sealed sealed(8 * 4096);
  const Extent extent(sealed.image.get(), 0, sealed.partition);
  REQUIRE(::ftruncate(sealed.image.get(), 4096) == 0);
  Window window;
  CHECK(extent.fetch(0, 4096, window));
  CHECK_FALSE(extent.fetch(4096, 10, window));
}

// --- the warm-up ---------------------------------------------------------------------------------

// An image of a tree that looks like a system, each file in blocks of its own.
class SystemImage {
 public:
  SystemImage() {
    REQUIRE(::mkdtemp(path_.data()) != nullptr);
    for (const char* directory : {"root/etc", "root/usr/bin", "root/.singularity.d/env"}) {
      std::filesystem::create_directories(path_ + '/' + directory);
    }
    std::filesystem::create_symlink("usr/bin", path_ + "/root/bin");
    char letter = 'a';  // mksquashfs stores equal files once
    for (const char* file : {"etc/passwd", "etc/other", "usr/bin/tool", "usr/bin/unused",
                             ".singularity.d/env/10-x.sh"}) {
      std::ofstream(path_ + "/root/" + file) << std::string(300'000, letter++);
    }
    REQUIRE(in_child([&] {
              const int null = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
              ::dup2(null, 1);
              ::dup2(null, 2);
              ::execlp("mksquashfs", "mksquashfs", (path_ + "/root").c_str(),
                       (path_ + "/image").c_str(), "-noappend", "-no-fragments", "-comp", "gzip",
                       nullptr);
              return 127;
            }) == 0);
    file_ = UniqueFd(::open((path_ + "/image").c_str(), O_RDONLY | O_CLOEXEC));
    struct stat info{};
    REQUIRE(::fstat(file_.get(), &info) == 0);
    extent_.emplace(file_.get(), 0, static_cast<std::uint64_t>(info.st_size));
    auto opened = Image::open(*extent_, {.data = 4 << 20, .metadata = 1 << 20});
    REQUIRE(opened);
    image = *std::move(opened);
  }

  ~SystemImage() { std::filesystem::remove_all(path_); }

  SystemImage(const SystemImage&) = delete;
  SystemImage& operator=(const SystemImage&) = delete;

  // How many of the file's blocks are decoded.
  std::size_t decoded(const char* path) {
    PathReader paths(*image);
    const auto file = paths.resolve(path);
    REQUIRE(file);
    std::vector<DataBlock> blocks;
    REQUIRE(paths.reader().blocks(*file, 0, 16, blocks));
    REQUIRE(blocks.size() == 3);
    return static_cast<std::size_t>(
        std::count_if(blocks.begin(), blocks.end(),
                      [&](const DataBlock& block) { return image->data().contains(block.key); }));
  }

  std::unique_ptr<Image> image;

 private:
  std::string path_ = "/tmp/postern-squashfs-XXXXXX";
  UniqueFd file_;
  std::optional<Extent> extent_;
};

TEST_CASE("the warm-up decodes what a start reads, and nothing else") {
  SystemImage system;
  WarmUp(*system.image, "tool").run();
  CHECK(system.decoded("/etc/passwd") == 3);
  CHECK(system.decoded("/.singularity.d/env/10-x.sh") == 3);
  CHECK(system.decoded("/bin/tool") == 3);
  CHECK(system.decoded("/usr/bin/unused") == 0);
  CHECK(system.decoded("/etc/other") == 0);
}

TEST_CASE("the warm-up takes a program's path as the image has it, and one that is not there") {
  SystemImage system;
  WarmUp(*system.image, "/bin/../bin/unused").run();
  CHECK(system.decoded("/usr/bin/unused") == 3);
  WarmUp(*system.image, "nowhere").run();
  WarmUp(*system.image, "/etc").run();
  CHECK(system.decoded("/usr/bin/tool") == 0);
}

TEST_CASE("a warm-up that was stopped decodes no more") {
  SystemImage system;
  WarmUp warm_up(*system.image, "tool");
  warm_up.stop();
  warm_up.run();
  CHECK(system.decoded("/etc/passwd") == 0);
  CHECK(system.decoded("/bin/tool") == 0);
}

TEST_SUITE_END();

}  // namespace
}  // namespace postern::squashfs
