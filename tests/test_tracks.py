import numpy as np
import pytest
from PIL import Image

from carclf.video.tracks import PATIENCE, Tracker, look

EVERY, SIZE = 0.2, (1000, 400)


def follow(cars, seconds=6.0, noise=0.0, every=EVERY, seed=0):
    """The numbers that each car got, in the order of time; `cars` are functions from the time to a box, or None."""
    tracker, rng = Tracker(every), np.random.default_rng(seed)
    numbers = [[] for _ in cars]
    for time in np.arange(0, seconds, every):
        boxes = [(car, box) for car, at in enumerate(cars) if (box := at(time)) is not None]
        found = np.array([box for _, box in boxes], float).reshape(-1, 4)
        order = rng.permutation(len(boxes))
        found = found[order] + rng.normal(0, noise, found.shape)
        for place, number in zip(order, tracker.update(time, found, SIZE), strict=True):
            numbers[boxes[place][0]].append(int(number))
    return numbers


def box(x, y, width=100, height=50):
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def one_each(numbers):
    return all(len(set(car)) == 1 for car in numbers) and len({car[0] for car in numbers}) == len(numbers)


@pytest.mark.parametrize("widths", [0, 0.3, 0.8, 1.0, 1.3])
def test_a_car_is_one_track_however_far_it_moves_between_frames(widths):
    speed = widths * 100 / EVERY
    assert one_each(follow([lambda t: box(speed * t, 100), lambda t: box(800 - speed * t, 300)], noise=2))


@pytest.mark.parametrize("speed", [60, 150, 300])
@pytest.mark.parametrize("apart", [8, 20, 40])
def test_two_cars_that_cross_keep_their_numbers(speed, apart):
    assert one_each(follow([lambda t: box(speed * t, 100), lambda t: box(900 - speed * t, 100 + apart)], noise=1))


def test_a_column_of_cars_moves_on_without_handing_over_numbers():
    # In a second, each car drives to where the one ahead of it was a moment before.
    cars = [lambda t, i=i: box(450 * t - 225 * i, 100) if 0 < 450 * t - 225 * i < 900 else None for i in range(12)]
    assert one_each([car for car in follow(cars, noise=1) if car])


def test_a_car_hidden_for_a_second_keeps_its_number():
    assert one_each(follow([lambda t: box(120 * t, 100) if not 2 < t < 3.1 else None], noise=1))


def test_a_car_that_leaves_and_comes_back_later_is_another_track():
    (numbers,) = follow([lambda t: box(100, 100) if t < 2 or t > 2.2 + PATIENCE else None])
    assert len(set(numbers)) == 2


def test_a_car_that_comes_in_where_another_has_left_is_another_track():
    def cut(x):
        x0, y0, x1, y1 = box(x, 100)
        return (x0, y0, min(x1, SIZE[0]), y1) if x0 < SIZE[0] - 15 else None

    numbers = follow([lambda t: cut(700 + 120 * t), lambda t: cut(1390 - 120 * t)])
    assert one_each(numbers)
    assert sum(map(len, numbers)) > 25


def test_a_car_that_comes_nearer_is_one_track():
    assert one_each(follow([lambda t: box(300 + 4 * t * t, 100 + 9 * t * t, 40 * 1.45**t, 30 * 1.45**t)], noise=1))


@pytest.mark.parametrize("every", [0.04, 0.5, 2.0])
def test_other_spacings_work(every):
    assert one_each(follow([lambda t: box(60 * t / every / 2, 100), lambda t: box(100, 300)], 10 * every, every=every))


def test_boxes_and_numbers_come_in_one_order_and_nothing_is_remembered_for_long():
    tracker = Tracker()
    assert tracker.update(0.0, np.empty((0, 4)), SIZE).tolist() == []
    assert tracker.update(0.2, np.array([box(0, 0), box(500, 0)]), SIZE).tolist() == [0, 1]
    assert tracker.update(0.4, np.array([box(501, 0), box(1, 0), box(250, 200)]), SIZE).tolist() == [1, 0, 2]
    tracker.update(10.0, np.empty((0, 4)), SIZE)
    assert len(tracker._ids) == 0


def test_a_car_of_another_colour_is_another_car_even_where_the_first_one_was():
    """As when a clip is cut, or when one car leaves the picture where the next one enters."""
    size, where = (640, 360), np.array([[100.0, 100, 250, 200]])
    white, red = Image.new("RGB", size, "white"), Image.new("RGB", size, "red")
    tracker, numbers = Tracker(0.2), []
    for frame, image in enumerate([white, white, white, red, red, white]):
        numbers += tracker.update(frame / 5, where, size, look(image, where)).tolist()
    assert numbers[:3] == [0, 0, 0] and numbers[3:5] == [1, 1] and numbers[5] == 0
    dusk = Image.new("RGB", size, (243, 243, 243))  # a change of light is no other car
    assert tracker.update(1.2, where, size, look(dusk, where)).tolist() == [0]


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_car_that_comes_in_just_as_another_leaves_through_the_same_edge_is_another_track(mirrored):
    def cut(middle):  # what the picture shows of a car of 120 pixels
        x0, x1 = max(0, middle - 60), min(SIZE[0], middle + 60)
        x0, x1 = (SIZE[0] - x1, SIZE[0] - x0) if mirrored else (x0, x1)
        return (x0, 100, x1, 160) if x1 - x0 > 20 else None

    def out(time):
        return cut(700 + 180 * time) if time < 1.79 else None

    def into(time):
        return cut(1030 - 180 * (time - 1.8)) if time > 1.79 else None

    numbers = follow([out, into], seconds=4)
    assert len({*numbers[0]}) == 1 and numbers[0][0] not in numbers[1][1:] and len({*numbers[1][1:]}) == 1
