/* See fake.h. */
#include "fake.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

namespace fake
{

options given;
radio air;
static const char *flash_file;
static char **arguments;

void misuse(const char *what)
{
    fprintf(stderr, "the part is misused: %s\n", what);
    fflush(stderr);
    _exit(3);
}

uint64_t now_us()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

uint32_t random32()
{
    uint32_t v = 0;
    (void)!getrandom(&v, sizeof v, 0);
    return v;
}

static int accepted(int listener, bool wait)
{
    struct pollfd p = {listener, POLLIN, 0};
    int one = 1;
    if (poll(&p, 1, wait ? 200 : 0) <= 0)
        return -1;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

void line::open(int listener, uint32_t rx_size, uint32_t tx_size, uint32_t baud, bool usb)
{
    open_ = true;
    listener_ = listener;
    rx_size_ = rx_size;
    tx_size_ = tx_size;
    baud_ = baud;
    usb_ = usb;
    at_ = now_us();
}

/* At most `most` bytes come; those beyond `kept`, or beyond the ring, are lost. */
void line::receive(uint32_t most, uint32_t kept)
{
    uint8_t b[4096];
    while (most != 0 && client_ >= 0) {
        ssize_t got = recv(client_, b, most < sizeof b ? most : sizeof b, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN)) {
            close(client_);
            client_ = -1;
        }
        if (got <= 0)
            return;
        most -= (uint32_t)got;
        for (ssize_t i = 0; i < got; i++) {
            if (kept == 0 || rx_.size() >= rx_size_) {
                lost++;
                continue;
            }
            kept--;
            rx_.push_back(b[i]);
        }
    }
}

void line::move()
{
    if (!open_)
        misuse("a serial port is used before begin()");
    int fresh = plugged_ ? accepted(listener_, false) : -1;
    if (fresh >= 0) {
        if (client_ >= 0)
            close(client_);
        client_ = fresh;
    }
    uint64_t now = now_us(), moved = (now - at_) * (baud_ / 10) / 1000000u;
    if (usb_)
        moved = rx_size_;
    else if (moved == 0)
        return;
    at_ = now;
    /* USB does not send what the device has no room for */
    receive(usb_ ? rx_size_ - (uint32_t)rx_.size() : (uint32_t)moved, 0xFFFFFFFFu);
    uint32_t n = tx_.size() < moved ? (uint32_t)tx_.size() : (uint32_t)moved;
    if (client_ >= 0) {
        ssize_t sent = send(client_, tx_.data(), n, MSG_DONTWAIT | MSG_NOSIGNAL);
        n = sent > 0 ? (uint32_t)sent : usb_ ? 0 : n;
    } else if (usb_) {
        n = 0;
    }
    tx_.erase(tx_.begin(), tx_.begin() + n);
}

int line::available()
{
    move();
    return (int)rx_.size();
}
int line::room()
{
    move();
    return (int)(tx_size_ - tx_.size());
}
size_t line::write(const uint8_t *p, size_t n)
{
    if (n > (size_t)room())
        misuse("a write of more than availableForWrite(), which blocks while nobody reads");
    tx_.insert(tx_.end(), p, p + n);
    return n;
}
size_t line::read(uint8_t *p, size_t n)
{
    if (n > (size_t)available())
        misuse("a read of more than available(), which blocks until the time-out");
    memcpy(p, rx_.data(), n);
    rx_.erase(rx_.begin(), rx_.begin() + (ptrdiff_t)n);
    return n;
}

void line::deaf(uint32_t ms)
{
    if (!open_)
        return;
    move();
    usleep(ms * 1000);
    if (!usb_)
        receive((uint32_t)((now_us() - at_) * (baud_ / 10) / 1000000u), 128);
    at_ = now_us();
}

void flash::open_at(void *address)
{
    int fd = flash_file != NULL ? ::open(flash_file, O_RDWR | O_CREAT | O_CLOEXEC, 0600)
                                : memfd_create("flash", MFD_CLOEXEC);
    off_t was = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (was < 0 || ftruncate(fd, size_) != 0)
        misuse("its flash cannot be opened");
    int fixed = address != nullptr ? MAP_FIXED_NOREPLACE : 0;
    cells_ = (uint8_t *)mmap(address, size_, PROT_READ | PROT_WRITE, MAP_SHARED | fixed, fd, 0);
    if (cells_ == MAP_FAILED)
        misuse("its flash cannot be mapped");
    if (was <= 0)
        memset(cells_, 0xFF, size_);
}
void flash::erase(uint32_t at, uint32_t n)
{
    if (at % sector_ != 0 || n % sector_ != 0 || at > size_ || n > size_ - at)
        misuse("an erase that is not of whole sectors");
    memset(cells_ + at, 0xFF, n);
}
void flash::program(uint32_t at, const uint8_t *p, uint32_t n)
{
    if (at % unit_ != 0 || n % unit_ != 0 || at > size_ || n > size_ - at)
        misuse("a write that is not of whole units, or outside the flash");
    for (uint32_t i = 0; i < n; i++)
        if (cells_[at + i] != 0xFF)
            misuse("a write to flash that is not erased");
    memcpy(cells_ + at, p, n);
}

static bool all_of(int fd, uint8_t *p, size_t n)
{
    while (n != 0) {
        ssize_t got = recv(fd, p, n, 0);
        if (got <= 0)
            return false;
        p += got;
        n -= (size_t)got;
    }
    return true;
}

void radio::start(stack *s)
{
    stack_ = s;
    thread_ = std::thread([this] { serve(); });
    thread_.detach();
}

void radio::advertise()
{
    std::lock_guard<std::mutex> hold(lock_);
    advertising_ = true;
}

bool radio::notify(const uint8_t *p, size_t n)
{
    std::lock_guard<std::mutex> hold(lock_);
    if (!connected_ || client_ < 0)
        return false;
    if (n == 0 || n > mtu_ - 3u)
        misuse("a notification longer than the MTU, which the stack would cut off");
    if (++sent_ % 7 == 0)
        return false; /* the stack's queue is full */
    uint8_t b[3 + 512] = {4, (uint8_t)n, (uint8_t)(n >> 8)};
    memcpy(b + 3, p, n);
    return send(client_, b, 3 + n, MSG_NOSIGNAL) == (ssize_t)(3 + n);
}

void radio::ended()
{
    bool was;
    {
        std::lock_guard<std::mutex> hold(lock_);
        was = connected_;
        connected_ = false;
    }
    if (was)
        stack_->disconnected();
}

bool radio::record(uint8_t kind, const uint8_t *p, uint32_t n)
{
    uint16_t value = n >= 2 ? (uint16_t)(p[0] | p[1] << 8) : 0;
    switch (kind) {
    case 1: {
        std::lock_guard<std::mutex> hold(lock_);
        if (!advertising_)
            misuse("a central comes, and the board does not advertise");
        advertising_ = false; /* a connection ends it */
        connected_ = true;
        mtu_ = 23;
    }
        stack_->connected(23);
        if (value > 23 && most_ > 23) {
            uint16_t both = value < most_ ? value : most_;
            {
                std::lock_guard<std::mutex> hold(lock_);
                mtu_ = both;
            }
            stack_->mtu(both);
        }
        return true;
    case 2: ended(); return true;
    case 3: {
        std::lock_guard<std::mutex> hold(lock_);
        mtu_ = value < most_ ? value : most_;
    }
        stack_->mtu(mtu_);
        return true;
    case 4: stack_->value(p, (uint16_t)n); return true;
    default: return false;
    }
}

void radio::serve()
{
    uint8_t b[3 + 512];
    for (;;) {
        int fd = accepted(given.link, true);
        if (fd < 0)
            continue;
        {
            std::lock_guard<std::mutex> hold(lock_);
            client_ = fd;
        }
        while (all_of(fd, b, 3)) {
            uint32_t n = b[1] | (uint32_t)b[2] << 8;
            if (n > 512 || !all_of(fd, b + 3, n) || !record(b[0], b + 3, n))
                break;
        }
        ended();
        std::lock_guard<std::mutex> hold(lock_);
        close(client_);
        client_ = -1;
    }
}

static int listen_on(int port)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    a.sin_port = htons((uint16_t)port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 4) != 0)
        misuse("its port cannot be opened");
    return fd;
}

static int port_of(int fd)
{
    struct sockaddr_in a;
    socklen_t n = sizeof a;
    getsockname(fd, (struct sockaddr *)&a, &n);
    return ntohs(a.sin_port);
}

void restart()
{
    char ports[32];
    snprintf(ports, sizeof ports, "%d %d", port_of(given.link), port_of(given.samples));
    setenv("QFL_FAKE_PORTS", ports, 1);
    close(given.link);
    close(given.samples);
    execv("/proc/self/exe", arguments);
    _exit(4);
}

static void read_options(int argc, char **argv, int *ports)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--port") == 0)
            ports[0] = atoi(value);
        else if (strcmp(argv[i], "--samples") == 0)
            ports[1] = atoi(value);
        else if (strcmp(argv[i], "--flash") == 0)
            flash_file = value;
        else if (strcmp(argv[i], "--ble") == 0)
            given.ble = true;
        else if (strcmp(argv[i], "--die-with-parent") == 0)
            prctl(PR_SET_PDEATHSIG, SIGKILL);
        else if (strcmp(argv[i], "--uid") == 0)
            for (int k = 0; k < 8 && value[2 * k] != 0; k++) {
                char two[3] = {value[2 * k], value[2 * k + 1], 0};
                given.uid[k] = (uint8_t)strtol(two, NULL, 16);
            }
    }
}

} // namespace fake

int main(int argc, char **argv)
{
    int ports[2] = {0, 0};
    const char *erase = getenv("QFL_FAKE_ERASE_MS");
    fake::arguments = argv;
    fake::given.erase_ms = erase != NULL ? (uint32_t)atoi(erase) : 2;
    fake::given.usb = getenv("QFL_FAKE_USB") != NULL;
    fake::read_options(argc, argv, ports);
    if (const char *again = getenv("QFL_FAKE_PORTS"))
        (void)!sscanf(again, "%d %d", &ports[0], &ports[1]);
    fake::given.link = fake::listen_on(ports[0]);
    fake::given.samples = fake::listen_on(ports[1]);
    printf("{\"port\": %d, \"samples\": %d}\n", fake::port_of(fake::given.link),
           fake::port_of(fake::given.samples));
    fflush(stdout);
    setup();
    for (;;)
        loop();
}
