// The judge as a process: started as the helper starts it, in a mount namespace with a site
// configuration of our own and busybox's syslogd behind /dev/log. Needs root.
#include <array>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "policy/judge/decide.h"
#include "policy/judge/examine.h"
#include "policy/judge/gather.h"
#include "policy/judge/signatures.h"
#include "policy/seal/add.h"
#include "policy/seal/seal.h"
#include "policy/seal/tree.h"
#include "policy/sif/reader.h"
#include "policy/sif/writer.h"
#include "policy/signature/compile_table.h"
#include "policy/signature/dsse.h"
#include "policy/signature/metadata.h"
#include "policy/signature/sign.h"
#include "policy/signature/verify.h"
#include "policy/text/hex.h"
#include "protocol/base/unique_fd.h"
#include "protocol/judge_input.h"
#include "protocol/launch_codec.h"
#include "protocol/refusal_table.h"
#include "tests/unit/fresh.h"
#include "tests/unit/launch_samples.h"

namespace postern::judge {
namespace {

// Of this run alone: the judge may have one process, and another run has one of its own.
const uid_t kJudgeUser = 0x6F000000U + static_cast<uid_t>(::getpid());
constexpr std::size_t kNoVerdict = 0;

const std::string kConfig = POSTERN_CONFDIR;
// Of this process: GnuPG finds an agent by the name of its home, whichever mount namespace that
// lies in.
const std::string kWork = "/tmp/postern-judge-process-" + std::to_string(::getpid());

void write_file(const std::string& path, std::string_view text, mode_t mode = 0644) {
  std::ofstream(path, std::ios::binary) << text;
  REQUIRE(::chmod(path.c_str(), mode) == 0);
}

std::string read_whole(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Once for this test program: its own view of the file system, gone with it.
void enter_private_world() {
  static const bool done = [] {
    const auto ok = [](int result) { REQUIRE_MESSAGE(result == 0, std::strerror(errno)); };
    ok(::unshare(CLONE_NEWNS));
    ok(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
    // ORDER: before /tmp is covered, where the build may lie.
    const std::string judge = read_whole(POSTERN_JUDGE);
    ok(::mount("test", "/tmp", "tmpfs", 0, "mode=0755"));
    std::filesystem::create_directories(kWork);
    const std::string parent = std::filesystem::path(kConfig).parent_path();
    ok(::mount("test", parent.c_str(), "tmpfs", 0, "mode=0755"));
    ok(::mkdir(kConfig.c_str(), 0755));
    ok(::mount("test", "/dev", "tmpfs", 0, "mode=0755"));
    ok(::mknod("/dev/null", S_IFCHR | 0666, makedev(1, 3)));
    ok(::chmod("/dev/null", 0666));
    write_file(kWork + "/judge", judge);
    ok(::chmod((kWork + "/judge").c_str(), 0711));
    return true;
  }();
  CHECK(done);
}

constexpr const char* kSite = "[suid]\nenabled = true\n";

void configure(const std::string& site, const std::string& ecl = "activated = false\n") {
  std::filesystem::remove(kConfig + "/postern.toml");
  std::filesystem::remove(kConfig + "/ecl.toml");
  write_file(kConfig + "/postern.toml", site);
  write_file(kConfig + "/ecl.toml", ecl);
  std::filesystem::remove(kConfig + "/capability.toml");
  REQUIRE(::chmod(kConfig.c_str(), 0755) == 0);
}

UniqueFd memfd(std::string_view bytes) {
  UniqueFd fd(::memfd_create("judge-test", MFD_CLOEXEC));
  REQUIRE(::write(fd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  return fd;
}

// What the helper hands over: its own file, and the caller's request.
struct Handed {
  UniqueFd input;
  UniqueFd request;
};

Handed input_for(std::span<const std::byte> request, std::size_t descriptors, std::uint32_t uid) {
  const JudgeInput head{
      .uid = uid, .gid = uid, .descriptor_count = static_cast<std::uint32_t>(descriptors)};
  std::string bytes(sizeof head + sizeof uid, '\0');
  std::memcpy(bytes.data(), &head, sizeof head);
  std::memcpy(bytes.data() + sizeof head, &uid, sizeof uid);
  return {memfd(bytes), memfd({reinterpret_cast<const char*>(request.data()), request.size()})};
}

struct Answer {
  int status = -1;  // wait(2)
  std::size_t bytes = 0;
  Verdict verdict{};
};

// Hard limits that the judge inherits, for as long as this lives.
class LimitsOfTest {
 public:
  struct Limit {
    __rlimit_resource resource;
    rlim_t value;
  };

  explicit LimitsOfTest(std::vector<Limit> limits) { now() = std::move(limits); }

  LimitsOfTest(const LimitsOfTest&) = delete;
  LimitsOfTest& operator=(const LimitsOfTest&) = delete;

  ~LimitsOfTest() { now().clear(); }

  static std::vector<Limit>& now() {
    static std::vector<Limit> limits;
    return limits;
  }
};

// Descriptors: root, then the others, each /dev/null where not given. The judge is the only process
// that its user may have: it does without another one.
Answer run_judge(const Handed& handed,
                 int root,
                 std::size_t descriptors,
                 const std::vector<int>& others = {},
                 uid_t user = kJudgeUser) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    // ORDER: everything out of the way of the low numbers first.
    const int null = ::fcntl(::open("/dev/null", O_RDWR), F_DUPFD, 400);
    const int out = ::fcntl(handed.input.get(), F_DUPFD, 400);
    const int in = ::fcntl(handed.request.get(), F_DUPFD, 400);
    const int zero = ::fcntl(root < 0 ? null : root, F_DUPFD, 400);
    std::vector<int> rest;
    for (const int fd : others) {
      rest.push_back(::fcntl(fd, F_DUPFD, 400));
    }
    for (int fd = 0; fd < kJudgeFd; ++fd) {
      ::dup2(null, fd);
    }
    ::dup2(out, kJudgeFd);
    ::dup2(in, kJudgeRequestFd);
    ::dup2(zero, kJudgeDescriptorBase);
    for (std::size_t i = 1; i < descriptors; ++i) {
      ::dup2(i - 1 < rest.size() ? rest[i - 1] : null, kJudgeDescriptorBase + static_cast<int>(i));
    }
    ::close_range(static_cast<unsigned>(kJudgeDescriptorBase + descriptors), ~0U, 0);
    std::vector<LimitsOfTest::Limit> limits = LimitsOfTest::now();
    limits.push_back({RLIMIT_NPROC, 1});
    for (const LimitsOfTest::Limit& limit : limits) {
      const rlimit both{.rlim_cur = limit.value, .rlim_max = limit.value};
      if (::setrlimit(limit.resource, &both) != 0) {
        ::_exit(97);
      }
    }
    if (::setgroups(0, nullptr) != 0 || ::setresgid(user, user, user) != 0 ||
        ::setresuid(user, user, user) != 0 || ::chdir("/") != 0) {
      ::_exit(99);
    }
    char name[] = "postern-judge";
    char* argv[] = {name, nullptr};
    char* environment[] = {nullptr};
    ::execve((kWork + "/judge").c_str(), argv, environment);
    ::_exit(98);
  }
  Answer result;
  REQUIRE(::waitpid(pid, &result.status, 0) == pid);
  const ssize_t got = ::pread(handed.input.get(), &result.verdict, sizeof result.verdict, 0);
  result.bytes =
      got > 0 && result.verdict.magic == kVerdictMagic ? static_cast<std::size_t>(got) : 0;
  return result;
}

// Of what is sent of a verdict.
std::size_t length_of(const Verdict& verdict) {
  return offsetof(Verdict, operations) + verdict.operation_count * sizeof(OperationEntry) +
         verdict.arena_bytes;
}

RefusalCode ask(const LaunchRequest& request,
                std::size_t descriptors,
                int root = -1,
                const std::vector<int>& others = {},
                std::uint32_t uid = 1000) {
  const auto bytes = encode(request, descriptors);
  REQUIRE(bytes);
  const Answer answer = run_judge(input_for(*bytes, descriptors, uid), root, descriptors, others);
  CAPTURE(answer.status);
  REQUIRE(answer.status == 0);
  REQUIRE(answer.bytes == length_of(answer.verdict));
  REQUIRE(answer.verdict.magic == kVerdictMagic);
  const auto code = static_cast<RefusalCode>(answer.verdict.refusal);
  CHECK((answer.verdict.decision == Decision::kAllow) == (code == RefusalCode::kNone));
  return code;
}

class Syslogd {
 public:
  Syslogd() {
    std::filesystem::remove(file_);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::execl("/bin/busybox", "busybox", "syslogd", "-n", "-O", file_.c_str(), nullptr);
      ::_exit(98);
    }
    for (int i = 0; i < 6000 && !std::filesystem::exists("/dev/log"); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    REQUIRE(std::filesystem::exists("/dev/log"));
  }

  Syslogd(const Syslogd&) = delete;
  Syslogd& operator=(const Syslogd&) = delete;

  ~Syslogd() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    std::filesystem::remove("/dev/log");
  }

  // The last line that holds `text`, waited for.
  std::string line_with(const std::string& text) const {
    for (int i = 0; i < 6000; ++i) {
      const std::string all = read_whole(file_);
      if (const std::size_t at = all.rfind(text); at != std::string::npos) {
        const std::size_t start = all.rfind('\n', at) + 1;
        const std::size_t end = all.find('\n', at);
        if (end != std::string::npos) {
          return all.substr(start, end - start);
        }
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return {};
  }

 private:
  const std::string file_ = kWork + "/syslog";
  pid_t pid_ = -1;
};

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

// A squashfs superblock that the reader accepts, made by mksquashfs.
std::string squashfs() {
  static const std::string bytes = [] {
    std::filesystem::create_directories(kWork + "/tree");
    write_file(kWork + "/tree/file", "hello");
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::execlp("mksquashfs", "mksquashfs", (kWork + "/tree").c_str(),
               (kWork + "/made.sqfs").c_str(), "-quiet", "-no-progress", nullptr);
      ::_exit(98);
    }
    int status = -1;
    REQUIRE(::waitpid(pid, &status, 0) == pid);
    REQUIRE(status == 0);
    return read_whole(kWork + "/made.sqfs");
  }();
  return bytes;
}

#define AS_ROOT doctest::skip(::geteuid() != 0)

TEST_CASE("a start that the site allows is allowed" * AS_ROOT) {
  enter_private_world();
  configure(kSite);
  CHECK(ask(sample_request(), 4) == RefusalCode::kNone);
}

TEST_CASE("configuration that cannot be relied on denies" * AS_ROOT) {
  enter_private_world();
  configure(kSite);
  RefusalCode expected = RefusalCode::kNone;
  SUBCASE("switched off") {
    configure("[suid]\nenabled = false\n");
    expected = RefusalCode::kSuidDisabled;
  }
  SUBCASE("switched off by silence") {
    configure("");
    expected = RefusalCode::kSuidDisabled;
  }
  SUBCASE("no postern.toml") {
    std::filesystem::remove(kConfig + "/postern.toml");
    expected = RefusalCode::kConfigMissing;
  }
  SUBCASE("no ecl.toml") {
    std::filesystem::remove(kConfig + "/ecl.toml");
    expected = RefusalCode::kConfigMissing;
  }
  SUBCASE("a malformed postern.toml") {
    configure("[suid]\nenable = true\n");
    expected = RefusalCode::kConfigMalformed;
  }
  SUBCASE("a malformed ecl.toml") {
    configure(kSite, "activated = maybe\n");
    expected = RefusalCode::kConfigMalformed;
  }
  SUBCASE("a malformed capability.toml") {
    write_file(kConfig + "/capability.toml", "[users]\nalice = [\"CAP_FLY\"]\n");
    expected = RefusalCode::kConfigMalformed;
  }
  SUBCASE("a postern.toml that all can write") {
    REQUIRE(::chmod((kConfig + "/postern.toml").c_str(), 0666) == 0);
    expected = RefusalCode::kConfigInsecure;
  }
  SUBCASE("an ecl.toml of somebody else") {
    REQUIRE(::chown((kConfig + "/ecl.toml").c_str(), 1000, 0) == 0);
    expected = RefusalCode::kConfigInsecure;
  }
  SUBCASE("a capability.toml that its group can write") {
    write_file(kConfig + "/capability.toml", "", 0664);
    expected = RefusalCode::kConfigInsecure;
  }
  SUBCASE("a directory that all can write") {
    REQUIRE(::chmod(kConfig.c_str(), 0777) == 0);
    expected = RefusalCode::kConfigInsecure;
  }
  SUBCASE("a postern.toml that is a link") {
    std::filesystem::rename(kConfig + "/postern.toml", kConfig + "/real.toml");
    std::filesystem::create_symlink("real.toml", kConfig + "/postern.toml");
    expected = RefusalCode::kConfigInsecure;
  }
  SUBCASE("a postern.toml that the judge cannot read") {
    REQUIRE(::chmod((kConfig + "/postern.toml").c_str(), 0600) == 0);
    expected = RefusalCode::kConfigMissing;
  }
  CHECK(ask(sample_request(), 4) == expected);
}

TEST_CASE("capabilities are granted by capability.toml to users and groups" * AS_ROOT) {
  enter_private_world();
  configure(kSite);
  LaunchRequest request = sample_request();
  request.capabilities = 1 << 13;
  CHECK(ask(request, 4) == RefusalCode::kCapability);
  write_file(kConfig + "/capability.toml",
             "[users]\n1000 = [\"CAP_NET_RAW\"]\n[groups]\n1001 = [\"CAP_NET_RAW\"]\n");
  CHECK(ask(request, 4) == RefusalCode::kNone);
  CHECK(ask(request, 4, -1, {}, 1001) == RefusalCode::kNone);
  CHECK(ask(request, 4, -1, {}, 1002) == RefusalCode::kCapability);
}

TEST_CASE("the kernel mounts an image only where the site trusts it" * AS_ROOT) {
  enter_private_world();
  configure(std::string(kSite) + "[kernel-mount]\ntrusted-paths = [\"" + kWork + "/apps\"]\n");
  std::filesystem::create_directories(kWork + "/apps");
  write_file(kWork + "/apps/x.sqfs", squashfs());
  write_file(kWork + "/y.sqfs", squashfs());
  LaunchRequest request = sample_request();
  request.root = RootKind::kImage;
  const auto ask_for = [&](const std::string& path, int flags = O_RDONLY) {
    const UniqueFd image(::open(path.c_str(), flags | O_CLOEXEC));
    REQUIRE(image.valid());
    return ask(request, 4, image.get());
  };
  CHECK(ask_for(kWork + "/apps/x.sqfs") == RefusalCode::kNone);
  CHECK(ask_for(kWork + "/y.sqfs") == RefusalCode::kKernelMount);
  CHECK(ask_for(kWork + "/apps/x.sqfs", O_WRONLY) == RefusalCode::kImageDescriptor);
  CHECK(ask_for(kWork + "/apps/x.sqfs", O_PATH) == RefusalCode::kImageDescriptor);
  CHECK(ask_for("/proc/version") == RefusalCode::kImageDescriptor);
  REQUIRE(::chmod((kWork + "/apps/x.sqfs").c_str(), 0646) == 0);
  CHECK(ask_for(kWork + "/apps/x.sqfs") == RefusalCode::kKernelMount);
  write_file(kWork + "/apps/x.sqfs", "hsqs, but not really");
  CHECK(ask_for(kWork + "/apps/x.sqfs") == RefusalCode::kImageMalformed);
  configure(std::string(kSite) + "[limit]\npaths = [\"" + kWork +
            "/app\"]\n[kernel-mount]\nsquashfs = \"any\"\n");
  write_file(kWork + "/apps/x.sqfs", squashfs());
  CHECK(ask_for(kWork + "/apps/x.sqfs") == RefusalCode::kPathLimit);
}

TEST_CASE("a file that another mount namespace shows at an allowed path is not there" * AS_ROOT) {
  enter_private_world();
  std::filesystem::create_directories(kWork + "/apps");
  write_file(kWork + "/apps/x.sqfs", squashfs());
  write_file(kWork + "/mine.sqfs", squashfs());
  configure(std::string(kSite) + "[limit]\npaths = [\"" + kWork +
            "/apps\"]\n[kernel-mount]\nsquashfs = \"any\"\n");
  // As a user would in a user namespace: cover the allowed file, open it there, hand it over.
  int channel[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, channel) == 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    const std::string target = kWork + "/apps/x.sqfs";
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount((kWork + "/mine.sqfs").c_str(), target.c_str(), nullptr, MS_BIND, nullptr) != 0) {
      ::_exit(1);
    }
    const int fd = ::open(target.c_str(), O_RDONLY);
    char dot = '.';
    iovec io{&dot, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &io;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
    (void)::sendmsg(channel[1], &message, 0);
    ::pause();
  }
  char dot = 0;
  iovec io{&dot, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  REQUIRE(::recvmsg(channel[0], &message, 0) == 1);
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  const UniqueFd image(fd);
  REQUIRE(std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd)) ==
          kWork + "/apps/x.sqfs");
  LaunchRequest request = sample_request();
  request.root = RootKind::kImage;
  CHECK(ask(request, 4, image.get()) == RefusalCode::kPathLimit);
  const UniqueFd real(::open((kWork + "/apps/x.sqfs").c_str(), O_RDONLY | O_CLOEXEC));
  CHECK(ask(request, 4, real.get()) == RefusalCode::kNone);
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  ::close(channel[0]);
  ::close(channel[1]);
}

TEST_CASE("only listed networks, and only for listed users" * AS_ROOT) {
  enter_private_world();
  LaunchRequest request = sample_request();
  request.join_net = 4;
  const UniqueFd net(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const std::vector<int> others = {null.get(), null.get(), null.get(), net.get()};
  write_file(kWork + "/net", "");
  REQUIRE(::mount("/proc/self/ns/net", (kWork + "/net").c_str(), nullptr, MS_BIND, nullptr) == 0);
  const std::string listed =
      std::string(kSite) + "[allow]\nnetns-paths = [\"" + kWork + "/net\"]\n";
  configure(kSite);
  CHECK(ask(request, 5, -1, others) == RefusalCode::kNetworkNamespace);
  configure(listed);
  CHECK(ask(request, 5, -1, others) == RefusalCode::kNetworkNamespace);
  configure(listed + "netns-users = [\"1000\"]\n");
  CHECK(ask(request, 5, -1, others) == RefusalCode::kNone);
  CHECK(ask(request, 5, -1, others, 1001) == RefusalCode::kNetworkNamespace);
  configure(listed + "netns-groups = [\"1001\"]\n");
  CHECK(ask(request, 5, -1, others, 1001) == RefusalCode::kNone);
  ::umount2((kWork + "/net").c_str(), MNT_DETACH);
}

TEST_CASE("binds of users can be switched off while the site's own go on" * AS_ROOT) {
  enter_private_world();
  std::filesystem::create_directories(kWork + "/site");
  std::filesystem::create_directories(kWork + "/user");
  configure(std::string(kSite) + "[allow]\nuser-binds = false\n[mount]\nbinds = [\"" + kWork +
            "/site:/data\"]\n");
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const auto ask_for = [&](const std::string& source) {
    const UniqueFd fd(::open(source.c_str(), O_PATH | O_CLOEXEC));
    return ask(sample_request(), 4, -1, {null.get(), null.get(), fd.get()});
  };
  CHECK(ask_for(kWork + "/site") == RefusalCode::kNone);
  CHECK(ask_for(kWork + "/user") == RefusalCode::kBindForbidden);
}

TEST_CASE("what the helper did not write gets no answer" * AS_ROOT) {
  enter_private_world();
  configure(kSite);
  const auto bytes = encode(sample_request(), 4);
  REQUIRE(bytes);
  const Answer allowed = run_judge(input_for(*bytes, 4, 1000), -1, 4);
  CHECK(allowed.bytes == length_of(allowed.verdict));
  const auto no_answer = [](const Answer& answer) {
    return answer.bytes == kNoVerdict && answer.status == (1 << 8);
  };
  CHECK(no_answer(run_judge(input_for(*bytes, 4, 1000), -1, 4, {}, 0)));  // as root
  const auto with_input = [](std::string_view input) {
    return run_judge({memfd(input), memfd("")}, -1, 4);
  };
  CHECK(no_answer(with_input("")));
  CHECK(no_answer(with_input("short")));
  CHECK(no_answer(with_input(std::string(100, 'x'))));
  std::string odd(sizeof(JudgeInput) + 3, '\0');
  const JudgeInput head{.uid = 1000, .gid = 1000, .descriptor_count = 4};
  std::memcpy(odd.data(), &head, sizeof head);
  CHECK(no_answer(with_input(odd)));  // half a group
  // A malformed request is the caller's doing, and gets one.
  for (const std::size_t size : {std::size_t{0}, std::size_t{64}, kMaxRequestBytes + 8}) {
    const Answer refused =
        run_judge(input_for(std::vector<std::byte>(size, std::byte{0x5a}), 4, 1000), -1, 4);
    CHECK(refused.status == 0);
    CHECK(refused.verdict.refusal == static_cast<std::uint16_t>(RefusalCode::kMalformedRequest));
  }
  Handed no_file = input_for(*bytes, 4, 1000);
  no_file.request = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  CHECK(run_judge(no_file, -1, 4).verdict.refusal ==
        static_cast<std::uint16_t>(RefusalCode::kMalformedRequest));
}

TEST_CASE("every start is one line in the log of a real daemon" * AS_ROOT) {
  enter_private_world();
  configure(std::string(kSite) + "[kernel-mount]\nsquashfs = \"any\"\n");
  const Syslogd daemon;
  SUBCASE("allowed") {
    CHECK(ask(sample_request(), 4, -1, {}, 11001) == RefusalCode::kNone);
    const std::string line = daemon.line_with("uid=11001");
    MESSAGE(line);
    CHECK(contains(line, "authpriv.notice"));
    CHECK(contains(line, "postern-judge["));
    CHECK(contains(line,
                   "mode=suid decision=allow root=fuse operations=bind:1,proc:1 kernel-mount=0"));
  }
  SUBCASE("refused") {
    LaunchRequest request = sample_request();
    request.namespaces = CLONE_NEWUSER;
    CHECK(ask(request, 4, -1, {}, 11002) == RefusalCode::kNamespaceForbidden);
    const std::string line = daemon.line_with("uid=11002");
    CHECK(contains(line, "authpriv.warn"));
    CHECK(contains(line, "decision=refuse rule=allow.namespaces item=28"));
  }
  SUBCASE("bad configuration, with its place") {
    configure("[suid]\nenable = true\n");
    CHECK(ask(sample_request(), 4, -1, {}, 11003) == RefusalCode::kConfigMalformed);
    const std::string line = daemon.line_with("uid=11003");
    CHECK(contains(line, "rule=config.malformed"));
    CHECK(contains(line, "postern.toml:2:1: there is no key \\x22enable\\x22 in [suid]"));
  }
  SUBCASE("a name with control characters cannot forge a line") {
    const std::string name = kWork + "/x\nNov  1 00:00:00 root: uid=0 \x1b[2J\"quoted\"";
    write_file(name, squashfs());
    const UniqueFd image(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
    LaunchRequest request = sample_request();
    request.root = RootKind::kImage;
    CHECK(ask(request, 4, image.get(), {}, 11004) == RefusalCode::kNone);
    const std::string line = daemon.line_with("uid=11004");
    CHECK(contains(line, "x\\x0aNov  1 00:00:00 root: uid=0 \\x1b[2J\\x22quoted\\x22\""));
    CHECK(contains(line, "root=image"));
    CHECK(contains(line, " path=\"" + kWork));
  }
}

TEST_CASE("a log that does not listen, and one that is flooded" * AS_ROOT) {
  enter_private_world();
  std::filesystem::remove("/dev/log");
  configure(std::string(kSite) + "[audit]\nrequired = true\n");
  CHECK(ask(sample_request(), 4) == RefusalCode::kAuditLog);
  configure(kSite);
  CHECK(ask(sample_request(), 4) == RefusalCode::kNone);

  const UniqueFd deaf(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, "/dev/log");
  REQUIRE(::bind(deaf.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::chmod("/dev/log", 0666) == 0);
  const UniqueFd flood(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  REQUIRE(::connect(flood.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  while (::send(flood.get(), "x", 1, 0) == 1) {
  }
  CHECK(ask(sample_request(), 4) == RefusalCode::kAuditLog);
  std::filesystem::remove("/dev/log");
}

// ---- signatures: a site key, and a signed image

int run_quietly(const std::vector<std::string>& words) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    const int out = ::open((kWork + "/out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ::dup2(out, 1);
    ::dup2(out, 2);
    std::vector<char*> argv;
    for (const std::string& word : words) {
      argv.push_back(const_cast<char*>(word.c_str()));
    }
    argv.push_back(nullptr);
    ::execvp(argv[0], argv.data());
    ::_exit(98);
  }
  int status = -1;
  ::waitpid(pid, &status, 0);
  return status;
}

// Ends the agent and removes the keyring, also where a test fails on the way.
struct KeyringEnd {
  KeyringEnd() = default;
  KeyringEnd(const KeyringEnd&) = delete;
  KeyringEnd& operator=(const KeyringEnd&) = delete;

  ~KeyringEnd() {
    (void)run_quietly({"gpgconf", "--homedir", kWork + "/gnupg", "--kill", "all"});
    std::filesystem::remove_all(kConfig + "/keyring");
    std::filesystem::remove_all(kWork + "/gnupg");
  }
};

// What `key import --global` does once the keys are in pubring.gpg.
void compile_keyring() {
  const auto compiled =
      signature::compile_table(kWork + "/gnupg", read_whole(kConfig + "/keyring/pubring.gpg"));
  REQUIRE(compiled);
  write_file(kConfig + "/keyring/pubring.table", signature::write_table(compiled->table));
}

// The site's keyring with one fresh OpenPGP key; returns its fingerprint.
std::string make_keyring() {
  const std::string home = kWork + "/gnupg";
  std::filesystem::create_directories(home);
  REQUIRE(::chmod(home.c_str(), 0700) == 0);
  const std::vector<std::string> gpg = {"gpg",   "--homedir",    home, "--batch",
                                        "--yes", "--passphrase", ""};
  const auto run = [&](std::vector<std::string> more) {
    more.insert(more.begin(), gpg.begin(), gpg.end());
    REQUIRE_MESSAGE(run_quietly(more) == 0, read_whole(kWork + "/out"));
  };
  run({"--quick-gen-key", "Site <site@example.org>", "ed25519", "sign", "never"});
  std::filesystem::create_directories(kConfig + "/keyring");
  run({"--output", kConfig + "/keyring/pubring.gpg", "--export"});
  REQUIRE(::chmod((kConfig + "/keyring/pubring.gpg").c_str(), 0644) == 0);
  compile_keyring();
  run({"--with-colons", "--list-keys"});
  const std::string list = read_whole(kWork + "/out");
  const std::size_t line = list.find("\nfpr:");
  REQUIRE(line != std::string::npos);
  return list.substr(line + 13, 40);
}

void make_image(const std::string& path, bool sealed) {
  auto writer = sif::Writer::create(path, {});
  REQUIRE(writer);
  sif::ObjectInput partition;
  partition.type = sif::DataType::kPartition;
  partition.extra = sif::PartitionInfo{
      sif::FileSystem::kSquashfs, sif::PartitionType::kPrimarySystem, sif::Architecture::kAmd64};
  std::string bytes = squashfs();
  bytes.resize((bytes.size() + 4095) / 4096 * 4096);
  REQUIRE(writer->add(partition, bytes));
  REQUIRE(writer->finish());
  if (sealed) {
    auto again = sif::Writer::open(path);
    REQUIRE(seal::add_seal(*again, again->descriptors()[0]));
    REQUIRE(again->finish());
  }
}

// What a signature of the image's group signs.
std::string metadata_text(const std::string& path) {
  std::vector<std::uint32_t> ids;
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const auto image = sif::read(Fresh(fd.get()));
  REQUIRE(image);
  for (const sif::Descriptor* object : image->group(1)) {
    ids.push_back(object->id);
  }
  const auto metadata = signature::metadata_of(*image, Fresh(fd.get()), 1, ids);
  REQUIRE(metadata);
  return *metadata;
}

void add_signature(const std::string& path,
                   const std::array<std::uint8_t, sif::kFingerprintBytes>& fingerprint,
                   const std::string& text) {
  auto signer = sif::Writer::open(path);
  REQUIRE(signer);
  REQUIRE(signer->add(signature::signature_object(1, fingerprint), text));
  REQUIRE(signer->finish());
}

void make_signed_image(const std::string& path, const std::string& fingerprint, bool sealed) {
  make_image(path, sealed);
  write_file(kWork + "/metadata", metadata_text(path));
  REQUIRE(run_quietly({"gpg", "--homedir", kWork + "/gnupg", "--batch", "--yes", "--digest-algo",
                       "SHA256", "--output", kWork + "/signed", "--clearsign",
                       kWork + "/metadata"}) == 0);
  const auto digits = text::from_hex(fingerprint);
  REQUIRE(digits);
  std::array<std::uint8_t, sif::kFingerprintBytes> raw{};
  std::copy(digits->begin(), digits->end(), raw.begin());
  add_signature(path, raw, read_whole(kWork + "/signed"));
}

// The same by a PEM key.
void make_pem_image(const std::string& path, const signature::PrivateKey& key, bool sealed) {
  make_image(path, sealed);
  const auto envelope = signature::sign_envelope(metadata_text(path), key);
  REQUIRE(envelope);
  add_signature(path, {}, *envelope);
}

// A fresh PEM key; its public half is in the site's keyring.
signature::PrivateKey make_pem_key() {
  const std::string secret = kWork + "/key.pem";
  std::filesystem::create_directories(kConfig + "/keyring/pem");
  REQUIRE(run_quietly({"openssl", "genpkey", "-algorithm", "ed25519", "-out", secret}) == 0);
  REQUIRE(run_quietly({"openssl", "pkey", "-in", secret, "-pubout", "-out",
                       kConfig + "/keyring/pem/site.pem"}) == 0);
  REQUIRE(::chmod((kConfig + "/keyring/pem/site.pem").c_str(), 0644) == 0);
  auto key = signature::PrivateKey::from_pem(read_whole(secret), "key.pem", {});
  REQUIRE(key);
  return *std::move(key);
}

TEST_CASE("signatures of the site's keys decide about images" * AS_ROOT) {
  enter_private_world();
  configure(kSite);
  const KeyringEnd end;
  const std::string fingerprint = make_keyring();
  const std::string path = kWork + "/signed.sif";
  const auto ask_for = [&] {
    const UniqueFd image(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    REQUIRE(image.valid());
    LaunchRequest request = sample_request();
    request.root = RootKind::kImage;
    return ask(request, 4, image.get());
  };
  const std::string rule = "activated = true\n[[execgroup]]\nmode = \"whitelist\"\nkeyfp = [\"";
  const std::string other(40, 'A');

  SUBCASE("a sealed image by a listed signer runs, and is trusted") {
    make_signed_image(path, fingerprint, true);
    configure(kSite, rule + fingerprint + "\"]\n");
    CHECK(ask_for() == RefusalCode::kNone);
    configure(kSite);  // no list: trust alone
    CHECK(ask_for() == RefusalCode::kNone);
    configure(kSite, rule + other + "\"]\n");
    CHECK(ask_for() == RefusalCode::kEclUnsigned);
    configure(kSite, rule + fingerprint + "\"]\ndirpath = \"" + kWork + "\"\n");
    CHECK(ask_for() == RefusalCode::kNone);
    configure(kSite, rule + fingerprint + "\"]\ndirpath = \"/usr\"\n");
    CHECK(ask_for() == RefusalCode::kEclNoGroup);
    configure(kSite, rule + fingerprint + "\"]\ndirpath = \"/nonexistent\"\n");
    CHECK(ask_for() == RefusalCode::kConfigMalformed);
  }
  SUBCASE("an unsealed image by a listed signer is admitted, but its bytes are not bound") {
    make_signed_image(path, fingerprint, false);
    REQUIRE(::chown(path.c_str(), 1000, 0) == 0);
    configure(kSite, rule + fingerprint + "\"]\n");
    CHECK(ask_for() == RefusalCode::kKernelMount);
    configure(std::string(kSite) + "[kernel-mount]\nsquashfs = \"any\"\n",
              rule + fingerprint + "\"]\n");
    CHECK(ask_for() == RefusalCode::kNone);
    REQUIRE(::chown(path.c_str(), 0, 0) == 0);
    REQUIRE(::chmod(path.c_str(), 0644) == 0);
    configure(kSite, rule + fingerprint + "\"]\n");
    CHECK(ask_for() == RefusalCode::kNone);
  }
  SUBCASE("a changed byte is noticed") {
    make_signed_image(path, fingerprint, false);
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    const auto image = sif::read(Fresh(fd.get()));
    const std::int64_t last = image->descriptors()[0].offset + image->descriptors()[0].size - 1;
    REQUIRE(::pwrite(fd.get(), "x", 1, last) == 1);
    configure(kSite, rule + fingerprint + "\"]\n");
    CHECK(ask_for() == RefusalCode::kEclSignature);
  }
  SUBCASE("the seal reaches the verdict") {
    make_signed_image(path, fingerprint, true);
    configure(kSite);
    LaunchRequest request = sample_request();
    request.root = RootKind::kImage;
    const auto bytes = encode(request, 4);
    const UniqueFd image(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const Answer answer = run_judge(input_for(*bytes, 4, 1000), image.get(), 4);
    REQUIRE(answer.verdict.decision == Decision::kAllow);
    CHECK(answer.verdict.verity.data_blocks != 0);
    CHECK(answer.verdict.verity.tree_offset + answer.verdict.verity.tree_bytes ==
          answer.verdict.image_offset + answer.verdict.image_bytes);
    CHECK(answer.verdict.layers[0].kind == RootKind::kImage);
  }
  SUBCASE("a keyring that others can write denies") {
    make_signed_image(path, fingerprint, true);
    configure(kSite, rule + fingerprint + "\"]\n");
    for (const char* name : {"/keyring/pubring.gpg", "/keyring/pubring.table"}) {
      REQUIRE(::chmod((kConfig + name).c_str(), 0666) == 0);
      CHECK(ask_for() == RefusalCode::kConfigInsecure);
      REQUIRE(::chmod((kConfig + name).c_str(), 0644) == 0);
    }
    CHECK(ask_for() == RefusalCode::kNone);
  }
  SUBCASE("a keyring that GnuPG changed behind the table's back denies, until it is compiled") {
    make_signed_image(path, fingerprint, true);
    configure(kSite, rule + fingerprint + "\"]\n");
    write_file(kConfig + "/keyring/pubring.kbx", "");
    CHECK(ask_for() == RefusalCode::kKeyring);
    std::filesystem::remove(kConfig + "/keyring/pubring.kbx");
    REQUIRE(run_quietly({"gpg", "--homedir", kWork + "/gnupg", "--batch", "--yes", "--passphrase",
                         "", "--quick-gen-key", "More <more@example.org>", "ed25519", "sign",
                         "never"}) == 0);
    REQUIRE(run_quietly({"gpg", "--homedir", kWork + "/gnupg", "--batch", "--yes", "--output",
                         kConfig + "/keyring/pubring.gpg", "--export"}) == 0);
    CHECK(ask_for() == RefusalCode::kKeyring);
    compile_keyring();
    CHECK(ask_for() == RefusalCode::kNone);
    std::filesystem::remove(kConfig + "/keyring/pubring.table");
    CHECK(ask_for() == RefusalCode::kKeyring);
  }
  SUBCASE("signatures are checked within the limits that batch systems set") {
    make_signed_image(path, fingerprint, true);
    configure(kSite, rule + fingerprint + "\"]\n");
    const LimitsOfTest limits(
        {{RLIMIT_AS, 100U << 20}, {RLIMIT_CPU, 2}, {RLIMIT_STACK, 64U << 10}});
    CHECK(ask_for() == RefusalCode::kNone);
  }
  SUBCASE("a list admits no directory and no FUSE server") {
    configure(kSite, rule + fingerprint + "\"]\n");
    CHECK(ask(sample_request(), 4) == RefusalCode::kUnboundRoot);
  }
}

// ---- one fetch: the file changes at every read

struct Examined {
  RefusalCode answer = RefusalCode::kNone;
  Verdict verdict{};
  std::size_t reads = 0;
};

// What the judge decides about `path` when the bytes come from `first` before read number `turn`,
// and from `second` from there on.
Examined examine_flipped(const std::string& path,
                         const std::string& first,
                         const std::string& second,
                         std::size_t turn,
                         const ecl::EclConfig& list,
                         const config::SiteConfig& site,
                         const Signatures& signatures) {
  Examined out;
  Snapshot image(first.size(), [&](std::span<std::uint8_t> into, std::uint64_t offset) -> ssize_t {
    const std::string& from = out.reads++ < turn ? first : second;
    const std::size_t size = std::min<std::size_t>(into.size(), from.size() - offset);
    std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(offset), size, into.begin());
    return static_cast<ssize_t>(size);
  });
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  Facts facts;
  facts.uid = 1000;
  facts.ecl_active = list.activated;
  const MountTable mounts = MountTable::read();
  examine(fd.get(), image, {.mounts = mounts, .list = list, .signatures = &signatures}, facts);
  LaunchRequest request = sample_request();
  request.root = RootKind::kImage;
  const auto decided = decide(facts, request, 4, site, out.verdict);
  out.answer = decided ? RefusalCode::kNone : decided.error().code;
  return out;
}

// An image of the attacker's, of the same layout as `good`, with the same signature in it.
std::string forged(const std::string& good, bool sealed) {
  const std::string path = kWork + "/forged.sif";
  write_file(path, good);
  {
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    const auto image = sif::read(Fresh(fd.get()));
    REQUIRE(image);
    const sif::Descriptor& root = image->descriptors()[0];
    // Data of the file system that is not its superblock.
    std::string data(200, 'E');
    REQUIRE(::pwrite(fd.get(), data.data(), data.size(), root.offset + root.size - 400) == 200);
    if (sealed) {
      const auto found = seal::find(*image, Fresh(fd.get()), root);
      REQUIRE(found);
      REQUIRE(*found);
      const VerityGeometry& geometry = (*found)->geometry;
      const auto made =
          seal::build_tree(fd.get(), {.data_offset = static_cast<std::uint64_t>(root.offset),
                                      .data_blocks = geometry.data_blocks,
                                      .tree_offset = geometry.tree_offset,
                                      .salt = std::span(geometry.salt).first(geometry.salt_bytes)});
      REQUIRE(made);
      const sif::Descriptor& seal = **image->object((*found)->seal_object);
      std::string text = *sif::read_object(Fresh(fd.get()), *image, seal, 4096);
      const std::string old_hash = text::to_hex(geometry.root_hash);
      REQUIRE(text.find(old_hash) != std::string::npos);
      text.replace(text.find(old_hash), old_hash.size(), text::to_hex(*made));
      REQUIRE(::pwrite(fd.get(), text.data(), text.size(), seal.offset) ==
              static_cast<ssize_t>(text.size()));
    }
  }
  return read_whole(path);
}

TEST_CASE("one fetch: at whichever read the file changes, only the signed bytes are admitted" *
          AS_ROOT) {
  enter_private_world();
  configure(kSite);
  const KeyringEnd end;
  const std::string fingerprint = make_keyring();
  const std::string path = kWork + "/signed.sif";
  const signature::PrivateKey key = make_pem_key();
  const std::string rule = "activated = true\n[[execgroup]]\nmode = \"whitelist\"\n";
  const std::string pem_identity = key.public_key().identities().at(0).substr(7);
  config::SiteConfig site;
  site.suid_enabled = true;
  for (const auto& [pem, sealed] :
       {std::pair(false, true), {false, false}, {true, true}, {true, false}}) {
    const auto read = ecl::parse_ecl(
        rule + (pem ? "keysha256 = [\"" + pem_identity : "keyfp = [\"" + fingerprint) + "\"]\n",
        "ecl.toml");
    REQUIRE(read);
    for (const bool any : {true, false}) {
      CAPTURE(pem);
      CAPTURE(sealed);
      CAPTURE(any);
      if (pem) {
        make_pem_image(path, key, sealed);
      } else {
        make_signed_image(path, fingerprint, sealed);
      }
      // Of the caller's: bound as "hash" where it is not sealed. Of root's: "unwritable".
      REQUIRE(::chown(path.c_str(), any ? 1000 : 0, 0) == 0);
      REQUIRE(::chmod(path.c_str(), 0644) == 0);
      site.kernel_mount_squashfs = any ? config::KernelMount::kAny : config::KernelMount::kTrusted;
      const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
      const auto signatures = Signatures::prepare(kConfig + "/keyring", *read, fd.get());
      REQUIRE(signatures);
      const std::string good = read_whole(path);
      const std::string bad = forged(good, sealed);
      REQUIRE(good != bad);
      const auto examined = [&](const std::string& first, const std::string& second,
                                std::size_t turn) {
        return examine_flipped(path, first, second, turn, *read, site, *signatures);
      };
      const Examined honest = examined(good, good, 0);
      REQUIRE(honest.answer == RefusalCode::kNone);
      REQUIRE(examined(bad, bad, 0).answer != RefusalCode::kNone);
      REQUIRE(honest.reads >= 4);
      std::size_t admitted = 0;
      for (std::size_t turn = 0; turn <= honest.reads + 1; ++turn) {
        for (const bool from_bad : {true, false}) {
          CAPTURE(turn);
          CAPTURE(from_bad);
          const Examined got = from_bad ? examined(bad, good, turn) : examined(good, bad, turn);
          if (got.answer == RefusalCode::kNone) {
            ++admitted;
            // What the kernel is told is what was signed.
            CHECK(std::memcmp(&got.verdict, &honest.verdict, sizeof got.verdict) == 0);
          }
        }
      }
      CHECK(admitted >= 2);  // changed before the first and behind the last read
    }
  }
}

}  // namespace
}  // namespace postern::judge
