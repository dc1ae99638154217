// See Arduino.h. Usage: program [PORT]; 0 or nothing: a free port. It is printed. POSIX only.
#include "Arduino.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int listener = -1, host = -1, wanted_port = 0;
SerialPort Serial;

uint32_t micros()
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint32_t)(t.tv_sec * 1000000ull + (uint64_t)t.tv_nsec / 1000u);
}

uint32_t millis()
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint32_t)(t.tv_sec * 1000ull + (uint64_t)t.tv_nsec / 1000000u);
}

void delay(uint32_t ms)
{
    pollfd waited = {host >= 0 ? host : listener, POLLIN, 0};
    poll(&waited, 1, (int)ms); // a byte ends it
}

long random(long low, long high) { return low + rand() % (high - low); }

static void hang_up()
{
    close(host);
    host = -1;
}

void SerialPort::begin(unsigned long)
{
    sockaddr_in at = {};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    at.sin_port = htons((uint16_t)wanted_port);
    int yes = 1;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (sockaddr *)&at, sizeof at) != 0 || listen(listener, 1) != 0) {
        perror("listen");
        exit(1);
    }
    socklen_t size = sizeof at;
    getsockname(listener, (sockaddr *)&at, &size);
    fcntl(listener, F_SETFL, O_NONBLOCK);
    printf("socket://127.0.0.1:%d\n", ntohs(at.sin_port));
    fflush(stdout);
}

SerialPort::operator bool()
{
    if (host < 0 && (host = accept(listener, nullptr, nullptr)) >= 0) {
        int yes = 1;
        fcntl(host, F_SETFL, O_NONBLOCK);
        setsockopt(host, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    }
    return host >= 0;
}

int SerialPort::available()
{
    int n = 0;
    if (!*this || ioctl(host, FIONREAD, &n) != 0)
        return 0;
    char c;
    if (n == 0 && recv(host, &c, 1, MSG_PEEK) == 0) // the host has gone
        hang_up();
    return n;
}

int SerialPort::availableForWrite() { return *this ? 256 : 0; }

size_t SerialPort::write(const uint8_t *p, size_t n)
{
    const ssize_t moved = send(host, p, n, MSG_NOSIGNAL);
    return moved < 0 ? 0 : (size_t)moved;
}

size_t SerialPort::readBytes(char *p, size_t n)
{
    const ssize_t moved = recv(host, p, n, 0);
    return moved < 0 ? 0 : (size_t)moved;
}

int main(int argc, char **argv)
{
    wanted_port = argc > 1 ? atoi(argv[1]) : 0;
    setup();
    for (;;)
        loop();
}
